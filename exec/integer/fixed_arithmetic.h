// Arithmetic on FixedArrays: sums and products of integers, shifts in the place of scales.
//
// `none` results mean that an operator has no exact integer form on these numbers (a sum that would not fit 62 bits);
// the caller then computes with floats. `Peak` is the largest sum met, in steps of the finest number that went in.
#pragma once

#include <optional>

#include "exec/integer/fixed_array.h"

namespace onnxfold {

struct Peak {
  std::int64_t largest = 0;
  void see(std::int64_t magnitude) {
    if (magnitude > largest) largest = magnitude;
  }
};

enum class FixedBinary { kAdd, kSub, kMul, kDiv, kMax, kMin };
// With broadcasting. kDiv rounds the quotient to 24 bits, half to even, as float32 does: the one operator whose result
// is no sum of its operands' bits.
std::optional<FixedArray> fixed_binary(FixedBinary op, const FixedArray& a, const FixedArray& b, Peak& peak);

// Over one axis, which is kept with size 1.
std::optional<FixedArray> fixed_sum(const FixedArray& x, std::int64_t axis, Peak& peak);
FixedArray fixed_max(const FixedArray& x, std::int64_t axis);

// clamp(round_half_even(value / 2^exponent) + zero, low, high).
std::int64_t fixed_code(std::int64_t mantissa, std::int32_t exponent, std::int32_t scale_exponent, std::int64_t zero,
                        std::int64_t low, std::int64_t high);

// [..., M, K] x [..., K, N] with broadcast leading axes: dot products of integers over runs of K in which neither
// operand changes its exponent, then shifted to the smallest and added.
std::optional<FixedArray> fixed_matmul(const FixedArray& a, const FixedArray& b, Peak& peak);
// x [N, C, ...] with w [M, C / group, ...]; pads as ONNX writes them: all begins, then all ends.
struct FixedConv {
  Dims strides, dilations, pads;
  std::int64_t group = 1;
};
std::optional<FixedArray> fixed_conv(const FixedArray& x, const FixedArray& w, const FixedConv& conv, Peak& peak);
// The last two axes exchanged.
FixedArray fixed_transpose(const FixedArray& x);

}  // namespace onnxfold
