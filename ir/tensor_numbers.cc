// Small tensors as numbers and back.
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "ir/numeric.h"
#include "ir/tensor.h"

namespace onnxfold {
namespace {

template <typename T>
T read_at(const std::byte* data, std::int64_t index) {
  T value;
  std::memcpy(&value, data + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// Element `index` of a packed sub-byte tensor as its unsigned code.
std::uint8_t sub_byte_code(const std::byte* data, std::int64_t index, int bits) {
  const std::int64_t bit = index * bits;
  const auto byte = std::to_integer<unsigned>(data[bit / 8]);
  return static_cast<std::uint8_t>((byte >> (bit % 8)) & ((1U << bits) - 1));
}

std::int64_t sign_extend(std::uint8_t code, int bits) {
  const int sign = 1 << (bits - 1);
  return (code ^ sign) - sign;
}

std::int64_t integer_at(DType dtype, const std::byte* data, std::int64_t i) {
  switch (dtype) {
    case DType::kBool:
    case DType::kUint8:
      return read_at<std::uint8_t>(data, i);
    case DType::kInt8:
      return read_at<std::int8_t>(data, i);
    case DType::kUint16:
      return read_at<std::uint16_t>(data, i);
    case DType::kInt16:
      return read_at<std::int16_t>(data, i);
    case DType::kInt32:
      return read_at<std::int32_t>(data, i);
    case DType::kUint32:
      return read_at<std::uint32_t>(data, i);
    case DType::kUint64:
    case DType::kInt64:
      return read_at<std::int64_t>(data, i);
    case DType::kUint4:
    case DType::kUint2:
      return sub_byte_code(data, i, bit_width(dtype));
    default:
      return sign_extend(sub_byte_code(data, i, bit_width(dtype)), bit_width(dtype));
  }
}

double real_at(DType dtype, const std::byte* data, std::int64_t i) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<double>(read_at<float>(data, i));
    case DType::kFloat64:
      return read_at<double>(data, i);
    case DType::kFloat16:
      return static_cast<double>(half_to_float(read_at<std::uint16_t>(data, i)));
    case DType::kBFloat16:
      return static_cast<double>(bfloat16_to_float(read_at<std::uint16_t>(data, i)));
    case DType::kFloat4E2M1:
      return static_cast<double>(small_float_to_float(dtype, sub_byte_code(data, i, 4)));
    case DType::kUint64:
      return static_cast<double>(read_at<std::uint64_t>(data, i));
    default:
      if (is_float(dtype)) return static_cast<double>(small_float_to_float(dtype, read_at<std::uint8_t>(data, i)));
      return static_cast<double>(integer_at(dtype, data, i));
  }
}

template <typename T>
void write_at(Buffer& data, std::int64_t index, T value) {
  std::memcpy(data.data() + index * static_cast<std::int64_t>(sizeof(T)), &value, sizeof(T));
}

void write_sub_byte(Buffer& data, std::int64_t index, int bits, unsigned code) {
  const std::int64_t bit = index * bits;
  data[static_cast<std::size_t>(bit / 8)] |= static_cast<std::byte>((code & ((1U << bits) - 1)) << (bit % 8));
}

template <typename T>
T saturate_to(double value) {
  if (std::isnan(value)) return 0;
  const double rounded = std::nearbyint(value);
  // The limits of 64-bit types are not doubles: compare against the next power of two.
  if (rounded >= -2.0 * static_cast<double>(std::numeric_limits<T>::min() / 2) && std::numeric_limits<T>::is_signed) {
    return std::numeric_limits<T>::max();
  }
  if (rounded >= static_cast<double>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
  if (rounded <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  return static_cast<T>(rounded);
}

double clamp_sub_byte(DType dtype, double value) {
  const int bits = bit_width(dtype);
  const double low = is_signed(dtype) ? -(1 << (bits - 1)) : 0;
  const double high = is_signed(dtype) ? (1 << (bits - 1)) - 1 : (1 << bits) - 1;
  if (std::isnan(value)) return 0;
  return std::fmin(std::fmax(std::nearbyint(value), low), high);
}

void store(DType dtype, Buffer& data, std::int64_t i, double value) {
  switch (dtype) {
    case DType::kFloat32:
      return write_at(data, i, static_cast<float>(value));
    case DType::kFloat64:
      return write_at(data, i, value);
    case DType::kFloat16:
      return write_at(data, i, double_to_half(value));
    case DType::kBFloat16:
      return write_at(data, i, double_to_bfloat16(value));
    case DType::kFloat4E2M1:
      return write_sub_byte(data, i, 4, float_to_small_float(dtype, static_cast<float>(value)));
    case DType::kBool:
      return write_at(data, i, static_cast<std::uint8_t>(value != 0));
    case DType::kUint8:
      return write_at(data, i, saturate_to<std::uint8_t>(value));
    case DType::kInt8:
      return write_at(data, i, saturate_to<std::int8_t>(value));
    case DType::kUint16:
      return write_at(data, i, saturate_to<std::uint16_t>(value));
    case DType::kInt16:
      return write_at(data, i, saturate_to<std::int16_t>(value));
    case DType::kUint32:
      return write_at(data, i, saturate_to<std::uint32_t>(value));
    case DType::kInt32:
      return write_at(data, i, saturate_to<std::int32_t>(value));
    case DType::kUint64:
      return write_at(data, i, saturate_to<std::uint64_t>(value));
    case DType::kInt64:
      return write_at(data, i, saturate_to<std::int64_t>(value));
    default:
      break;
  }
  if (is_sub_byte(dtype)) {
    const auto code = static_cast<unsigned>(static_cast<int>(clamp_sub_byte(dtype, value)));
    return write_sub_byte(data, i, bit_width(dtype), code);
  }
  write_at(data, i, float_to_small_float(dtype, static_cast<float>(value)));
}

bool is_real(DType dtype) { return is_float(dtype) || is_integer(dtype) || dtype == DType::kBool; }

template <typename T, typename Read>
Result<std::vector<T>> read_all(const Tensor& tensor, Read read) {
  OF_ASSIGN(const Bytes bytes, tensor.bytes());
  std::vector<T> values(static_cast<std::size_t>(tensor.size()));
  for (std::int64_t i = 0; i < tensor.size(); ++i) values[static_cast<std::size_t>(i)] = read(bytes.data(), i);
  return values;
}

tl::unexpected<Error> not_a(const char* what, DType dtype) {
  return fail(Code::kInvalidArgument, fmt::format("a tensor of type {} where {} is needed", name(dtype), what));
}

}  // namespace

Result<std::vector<std::int64_t>> to_int64s(const Tensor& tensor) {
  const DType dtype = tensor.dtype();
  if (!is_integer(dtype) && dtype != DType::kBool) return not_a("integers", dtype);
  return read_all<std::int64_t>(tensor,
                                [dtype](const std::byte* data, std::int64_t i) { return integer_at(dtype, data, i); });
}

Result<std::vector<double>> to_doubles(const Tensor& tensor) {
  const DType dtype = tensor.dtype();
  if (!is_real(dtype)) return not_a("real numbers", dtype);
  return read_all<double>(tensor, [dtype](const std::byte* data, std::int64_t i) { return real_at(dtype, data, i); });
}

Result<std::vector<float>> to_floats(const Tensor& tensor) {
  const DType dtype = tensor.dtype();
  if (!is_real(dtype)) return not_a("real numbers", dtype);
  if (dtype == DType::kFloat32) {
    OF_ASSIGN(const Bytes bytes, tensor.bytes());
    std::vector<float> values(static_cast<std::size_t>(tensor.size()));
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  return read_all<float>(
      tensor, [dtype](const std::byte* data, std::int64_t i) { return static_cast<float>(real_at(dtype, data, i)); });
}

Result<Tensor> from_doubles(DType dtype, Dims dims, std::span<const double> values) {
  if (!is_real(dtype)) return not_a("a real type", dtype);
  const auto size = packed_bytes(dtype, static_cast<std::int64_t>(values.size()));
  if (!size || element_count(dims) != static_cast<std::int64_t>(values.size())) {
    return fail(Code::kInternal, "from_doubles: the shape does not match the number of values");
  }
  Buffer data(static_cast<std::size_t>(*size));
  for (std::size_t i = 0; i < values.size(); ++i) store(dtype, data, static_cast<std::int64_t>(i), values[i]);
  return Tensor::owned(dtype, std::move(dims), std::move(data));
}

}  // namespace onnxfold
