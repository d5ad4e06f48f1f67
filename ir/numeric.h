// Conversions between float and the small floating types, rounding to nearest even.
// Sources: IEEE 754-2019 (binary16), bfloat16 (upper half of binary32), OCP OFP8 (E4M3FN, E5M2), ONNX "Float stored
// in 8 bits" (FNUZ variants), OCP MX (E2M1, E8M0).
#pragma once

#include <cstdint>

#include "ir/dtype.h"

namespace onnxfold {

float half_to_float(std::uint16_t bits);
std::uint16_t float_to_half(float value);
// Rounds once from double (no double rounding through float).
std::uint16_t double_to_half(double value);
inline float bfloat16_to_float(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  return __builtin_bit_cast(float, wide);
}
std::uint16_t float_to_bfloat16(float value);
std::uint16_t double_to_bfloat16(double value);

// float8 and float4 by ONNX element type (codes 17 to 20, 23, 24).
float small_float_to_float(DType dtype, std::uint8_t bits);
// saturate: out-of-range becomes the largest finite value, as in ONNX Cast with saturate=1; otherwise NaN or infinity.
std::uint8_t float_to_small_float(DType dtype, float value, bool saturate = true);

// `value` rounded to what `dtype` can hold (identity for float32 when value is a float, for float64 always).
double round_to(DType dtype, double value);

}  // namespace onnxfold
