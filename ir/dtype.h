// Element types, numbered as in ONNX TensorProto.DataType.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace onnxfold {

enum class DType : std::int32_t {
  kUndefined = 0,
  kFloat32 = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kString = 8,
  kBool = 9,
  kFloat16 = 10,
  kFloat64 = 11,
  kUint32 = 12,
  kUint64 = 13,
  kComplex64 = 14,
  kComplex128 = 15,
  kBFloat16 = 16,
  kFloat8E4M3FN = 17,
  kFloat8E4M3FNUZ = 18,
  kFloat8E5M2 = 19,
  kFloat8E5M2FNUZ = 20,
  kUint4 = 21,
  kInt4 = 22,
  kFloat4E2M1 = 23,
  kFloat8E8M0 = 24,
  kUint2 = 25,
  kInt2 = 26,
};

// Bits of one element as ONNX packs it (4 for int4, 2 for uint2); 0 for string and undefined.
int bit_width(DType dtype);
// Bytes of `count` packed elements: ceil(count * bits / 8); nullopt when it overflows. Strings count as 0.
std::optional<std::int64_t> packed_bytes(DType dtype, std::int64_t count);
// Lower-case ONNX text name: "float", "int4", "bfloat16"...
std::string_view name(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);

bool is_float(DType dtype);    // float64 down to float4, bfloat16 included; not complex
bool is_integer(DType dtype);  // signed and unsigned, sub-byte included; not bool
bool is_signed(DType dtype);   // of the integers
bool is_sub_byte(DType dtype);

}  // namespace onnxfold
