#include "ir/dtype.h"

#include <array>

namespace onnxfold {
namespace {

struct Row {
  std::string_view name;
  int bits;
};

// Indexed by the ONNX code.
constexpr std::array<Row, 27> kRows = {{
    {"undefined", 0},      {"float", 32},    {"uint8", 8},        {"int8", 8},           {"uint16", 16},
    {"int16", 16},         {"int32", 32},    {"int64", 64},       {"string", 0},         {"bool", 8},
    {"float16", 16},       {"double", 64},   {"uint32", 32},      {"uint64", 64},        {"complex64", 64},
    {"complex128", 128},   {"bfloat16", 16}, {"float8e4m3fn", 8}, {"float8e4m3fnuz", 8}, {"float8e5m2", 8},
    {"float8e5m2fnuz", 8}, {"uint4", 4},     {"int4", 4},         {"float4e2m1", 4},     {"float8e8m0", 8},
    {"uint2", 2},          {"int2", 2},
}};

const Row& row(DType dtype) {
  const auto code = static_cast<std::size_t>(dtype);
  return kRows[code < kRows.size() ? code : 0];
}

}  // namespace

int bit_width(DType dtype) { return row(dtype).bits; }

std::optional<std::int64_t> packed_bytes(DType dtype, std::int64_t count) {
  std::int64_t bits = 0;
  if (count < 0 || __builtin_mul_overflow(count, static_cast<std::int64_t>(bit_width(dtype)), &bits)) return {};
  if (__builtin_add_overflow(bits, std::int64_t{7}, &bits)) return {};
  return bits / 8;
}

std::string_view name(DType dtype) { return row(dtype).name; }

std::optional<DType> dtype_from_name(std::string_view name) {
  for (std::size_t code = 1; code < kRows.size(); ++code) {
    if (kRows[code].name == name) return static_cast<DType>(code);
  }
  return {};
}

bool is_float(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
    case DType::kFloat16:
    case DType::kFloat64:
    case DType::kBFloat16:
    case DType::kFloat8E4M3FN:
    case DType::kFloat8E4M3FNUZ:
    case DType::kFloat8E5M2:
    case DType::kFloat8E5M2FNUZ:
    case DType::kFloat4E2M1:
    case DType::kFloat8E8M0:
      return true;
    default:
      return false;
  }
}

bool is_integer(DType dtype) {
  switch (dtype) {
    case DType::kUint8:
    case DType::kInt8:
    case DType::kUint16:
    case DType::kInt16:
    case DType::kInt32:
    case DType::kInt64:
    case DType::kUint32:
    case DType::kUint64:
    case DType::kUint4:
    case DType::kInt4:
    case DType::kUint2:
    case DType::kInt2:
      return true;
    default:
      return false;
  }
}

bool is_signed(DType dtype) {
  switch (dtype) {
    case DType::kInt8:
    case DType::kInt16:
    case DType::kInt32:
    case DType::kInt64:
    case DType::kInt4:
    case DType::kInt2:
      return true;
    default:
      return false;
  }
}

bool is_sub_byte(DType dtype) {
  const int bits = bit_width(dtype);
  return bits > 0 && bits < 8;
}

}  // namespace onnxfold
