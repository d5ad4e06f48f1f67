#include "exec/array.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "exec/dispatch.h"
#include "exec/memory_pool.h"
#include "exec/parallel.h"
#include "ir/numeric.h"

namespace onnxfold {
namespace {

std::int64_t checked_count(const Dims& dims) {
  std::int64_t count = 1;
  bool empty = false, overflow = false;
  for (const std::int64_t dim : dims) {
    if (dim < 0) throw std::bad_array_new_length();
    if (dim == 0) empty = true;
    overflow = overflow || __builtin_mul_overflow(count, std::max<std::int64_t>(dim, 1), &count);
  }
  if (empty) return 0;
  if (overflow) throw std::bad_array_new_length();
  return count;
}

bool is_narrow_float(DType dtype) { return is_float(dtype) && dtype != DType::kFloat32 && dtype != DType::kFloat64; }

// Element `i` of a packed tensor of 1 to 8 bits per element, as raw bits.
std::uint8_t packed_bits(const std::byte* data, std::int64_t i, int width) {
  const std::int64_t bit = i * width;
  const int raw = std::to_integer<int>(data[bit / 8]) >> (bit % 8);
  return static_cast<std::uint8_t>(raw & ((1 << width) - 1));
}

template <typename T>
T load(const std::byte* data, std::int64_t i) {
  T value;
  std::memcpy(&value, data + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
  return value;
}

double decode_float(DType dtype, const std::byte* data, std::int64_t i) {
  switch (dtype) {
    case DType::kFloat32:
      return load<float>(data, i);
    case DType::kFloat64:
      return load<double>(data, i);
    case DType::kFloat16:
      return half_to_float(load<std::uint16_t>(data, i));
    case DType::kBFloat16:
      return bfloat16_to_float(load<std::uint16_t>(data, i));
    default:
      return small_float_to_float(dtype, packed_bits(data, i, bit_width(dtype)));
  }
}

template <typename T>
void decode_floats(DType dtype, const std::byte* data, T* out, std::int64_t count) {
  parallel_for(count, kElementGrain, [&](std::int64_t begin, std::int64_t end) {
    if (dtype == DType::kFloat16) {
      for (std::int64_t i = begin; i < end; ++i) out[i] = half_to_float(load<std::uint16_t>(data, i));
    } else if (dtype == DType::kBFloat16) {
      for (std::int64_t i = begin; i < end; ++i) out[i] = bfloat16_to_float(load<std::uint16_t>(data, i));
    } else {
      for (std::int64_t i = begin; i < end; ++i) out[i] = static_cast<T>(decode_float(dtype, data, i));
    }
  });
}

template <typename T>
void decode_integers(DType dtype, const std::byte* data, T* out, std::int64_t count) {
  const int width = bit_width(dtype);
  const int sign = is_signed(dtype) ? 1 << (width - 1) : 0;
  parallel_for(count, kElementGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) out[i] = static_cast<T>((packed_bits(data, i, width) ^ sign) - sign);
  });
}

bool same_representation(DType dtype, Storage storage) {
  if (dtype == DType::kFloat32) return storage == Storage::kFloat;
  return !is_narrow_float(dtype) && !is_sub_byte(dtype);
}

bool all_bools(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return std::to_integer<int>(b) <= 1; });
}

Array converted(const Tensor& tensor, const Bytes& bytes, Precision precision) {
  Array array(tensor.dtype(), tensor.dims(), precision);
  const std::int64_t count = array.size();
  if (tensor.dtype() == DType::kBool) {
    for (std::int64_t i = 0; i < count; ++i) array.mutable_data<bool>()[i] = bytes.data()[i] != std::byte{0};
  } else if (is_float(tensor.dtype()) && !same_representation(tensor.dtype(), array.storage())) {
    visit_float(array.storage(), [&]<typename T>(Tag<T>) {
      decode_floats(tensor.dtype(), bytes.data(), array.mutable_data<T>(), count);
    });
  } else if (is_sub_byte(tensor.dtype())) {
    visit_integer(array.storage(), [&]<typename T>(Tag<T>) {
      decode_integers(tensor.dtype(), bytes.data(), array.mutable_data<T>(), count);
    });
  } else if (bytes.size() != 0) {
    std::memcpy(array.mutable_raw(), bytes.data(), bytes.size());
  }
  return array;
}

void encode_float(DType dtype, double value, std::byte* data, std::int64_t i) {
  const auto put = [&](auto bits) {
    std::memcpy(data + static_cast<std::size_t>(i) * sizeof(bits), &bits, sizeof(bits));
  };
  switch (dtype) {
    case DType::kFloat32:
      put(static_cast<float>(value));
      break;
    case DType::kFloat64:
      put(value);
      break;
    case DType::kFloat16:
      put(double_to_half(value));
      break;
    case DType::kBFloat16:
      put(double_to_bfloat16(value));
      break;
    default: {
      const int width = bit_width(dtype);
      const bool special = std::isnan(value) || std::isinf(value);  // what saturation would hide
      const std::uint8_t bits = special ? float_to_small_float(dtype, static_cast<float>(value), false)
                                        : float_to_small_float(dtype, static_cast<float>(round_to(dtype, value)));
      data[i * width / 8] |= static_cast<std::byte>(bits << (i * width % 8));
    }
  }
}

Buffer encode(const Array& array, std::int64_t bytes) {
  Buffer buffer(static_cast<std::size_t>(bytes));
  const DType dtype = array.dtype();
  if (same_representation(dtype, array.storage())) {
    if (bytes != 0) std::memcpy(buffer.data(), array.raw(), buffer.size());
  } else if (is_float(dtype)) {
    visit_float(array.storage(), [&]<typename T>(Tag<T>) {
      for (std::int64_t i = 0; i < array.size(); ++i) encode_float(dtype, array.data<T>()[i], buffer.data(), i);
    });
  } else {
    const int width = bit_width(dtype), mask = (1 << width) - 1;
    const auto* data = array.data<std::uint8_t>();
    for (std::int64_t i = 0; i < array.size(); ++i) {
      buffer[static_cast<std::size_t>(i * width / 8)] |= static_cast<std::byte>((data[i] & mask) << (i * width % 8));
    }
  }
  return buffer;
}

template <typename T>
Result<std::vector<T>> to_numbers(const Array& array) {
  std::vector<T> numbers(static_cast<std::size_t>(array.size()));
  const bool real = visit_real(array.storage(), [&]<typename S>(Tag<S>) {
    const S* data = array.data<S>();
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<T>(data[i]);
  });
  if (!real) return fail(Code::kInvalidArgument, "expected numbers, got " + std::string(name(array.dtype())));
  return numbers;
}

}  // namespace

Storage storage_for(DType dtype, Precision precision) {
  if (dtype == DType::kFloat64) return Storage::kDouble;
  if (is_float(dtype)) return precision == Precision::kFloat64 ? Storage::kDouble : Storage::kFloat;
  switch (dtype) {
    case DType::kBool:
      return Storage::kBool;
    case DType::kInt8:
    case DType::kInt4:
    case DType::kInt2:
      return Storage::kInt8;
    case DType::kUint8:
    case DType::kUint4:
    case DType::kUint2:
      return Storage::kUint8;
    case DType::kInt16:
      return Storage::kInt16;
    case DType::kUint16:
      return Storage::kUint16;
    case DType::kInt32:
      return Storage::kInt32;
    case DType::kUint32:
      return Storage::kUint32;
    case DType::kInt64:
      return Storage::kInt64;
    case DType::kUint64:
      return Storage::kUint64;
    case DType::kString:
      return Storage::kString;
    case DType::kComplex64:
      return Storage::kComplex64;
    case DType::kComplex128:
      return Storage::kComplex128;
    default:
      return Storage::kUint8;
  }
}

std::size_t storage_bytes(Storage storage) {
  switch (storage) {
    case Storage::kBool:
    case Storage::kInt8:
    case Storage::kUint8:
      return 1;
    case Storage::kInt16:
    case Storage::kUint16:
      return 2;
    case Storage::kFloat:
    case Storage::kInt32:
    case Storage::kUint32:
      return 4;
    case Storage::kDouble:
    case Storage::kInt64:
    case Storage::kUint64:
    case Storage::kComplex64:
      return 8;
    case Storage::kComplex128:
      return 16;
    case Storage::kString:
      return 0;
  }
  return 0;
}

Array::Array(DType dtype, Dims dims, Precision precision)
    : dtype_(dtype), storage_(storage_for(dtype, precision)), dims_(std::move(dims)), size_(checked_count(dims_)) {
  const auto count = static_cast<std::size_t>(size_);
  const std::size_t width = storage_ == Storage::kString ? sizeof(std::string) : storage_bytes(storage_);
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, width, &bytes) || bytes > memory_limit()) throw std::bad_alloc();
  if (storage_ == Storage::kString) {
    auto strings = std::make_shared<std::vector<std::string>>(count);
    data_ = strings->data();
    owner_ = std::move(strings);
  } else {
    std::shared_ptr<void> memory = pooled_memory(bytes);
    data_ = memory.get();
    owner_ = std::move(memory);
  }
}

Array Array::view(DType dtype, Dims dims, Storage storage, std::shared_ptr<const void> owner, const void* data) {
  Array array;
  array.dtype_ = dtype;
  array.storage_ = storage;
  array.size_ = checked_count(dims);
  array.dims_ = std::move(dims);
  array.owner_ = std::move(owner);
  array.data_ = data;
  array.read_only_ = true;
  return array;
}

Array Array::reshaped(Dims dims) const {
  Array array = *this;
  array.dims_ = std::move(dims);
  return array;
}

Array Array::retyped(DType dtype) const {
  Array array = *this;
  array.dtype_ = dtype;
  return array;
}

Result<Array> to_array(const Tensor& tensor, Precision precision) {
  if (tensor.dtype() == DType::kString) {
    Array array(DType::kString, tensor.dims(), precision);
    std::copy(tensor.string_data().begin(), tensor.string_data().end(), array.mutable_data<std::string>());
    return array;
  }
  const Storage storage = storage_for(tensor.dtype(), precision);
  const bool same = same_representation(tensor.dtype(), storage);
  OF_ASSIGN(Bytes bytes, tensor.aligned_bytes(same ? std::min<std::size_t>(storage_bytes(storage), alignof(double))
                                                   : std::size_t{1}));
  const bool clean = tensor.dtype() != DType::kBool || all_bools(bytes.span());
  if (!same || !clean) return converted(tensor, bytes, precision);
  auto owner = std::make_shared<const Bytes>(bytes);
  return Array::view(tensor.dtype(), tensor.dims(), storage, owner, owner->data());
}

Result<Tensor> to_tensor(const Array& array) {
  if (array.dtype() == DType::kString) {
    const auto* strings = array.data<std::string>();
    return Tensor::strings(array.dims(), std::vector<std::string>(strings, strings + array.size()));
  }
  const std::optional<std::int64_t> bytes = packed_bytes(array.dtype(), array.size());
  if (!array.defined() || !bytes) return fail(Code::kInternal, "to_tensor: undefined array");
  return Tensor::owned(array.dtype(), array.dims(), encode(array, *bytes));
}

Result<std::vector<double>> to_doubles(const Array& array) { return to_numbers<double>(array); }
Result<std::vector<std::int64_t>> to_int64s(const Array& array) { return to_numbers<std::int64_t>(array); }

void round_to_dtype(Array& array) {
  const DType dtype = array.dtype();
  if (!is_float(dtype) || same_representation(dtype, array.storage())) return;
  visit_float(array.storage(), [&]<typename T>(Tag<T>) {
    T* data = array.mutable_data<T>();
    parallel_for(array.size(), kElementGrain / 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        if constexpr (std::is_same_v<T, float>) {
          data[i] = dtype == DType::kFloat16    ? half_to_float(float_to_half(data[i]))
                    : dtype == DType::kBFloat16 ? bfloat16_to_float(float_to_bfloat16(data[i]))
                                                : static_cast<float>(round_to(dtype, data[i]));
        } else {
          data[i] = round_to(dtype, data[i]);
        }
      }
    });
  });
}

Datum Datum::sequence(std::vector<Datum> values) {
  Datum datum;
  datum.kind = Kind::kSequence;
  datum.items = std::make_shared<const std::vector<Datum>>(std::move(values));
  return datum;
}

Datum Datum::optional(std::vector<Datum> zero_or_one) {
  Datum datum = sequence(std::move(zero_or_one));
  datum.kind = Kind::kOptional;
  return datum;
}

}  // namespace onnxfold
