// Array: a mutable n-dimensional array while a model runs, and Datum: an array, sequence or optional.
//
// An Array has a logical ONNX element type and a storage type. Storage follows the precision of the run:
//   float16, bfloat16, float8, float4, float32 -> float in float32 mode, double in float64 mode
//   float64 -> double always;  int4, int2 -> int8;  uint4, uint2 -> uint8;  bool -> bool;  others -> themselves
// Values of a narrow float type are always representable in it in float32 mode (the runner rounds every result); in
// float64 mode only Cast and QuantizeLinear round, so that exact rewrites can be proved.
#pragma once

#include <complex>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ir/tensor.h"
#include "ir/type.h"

namespace onnxfold {

enum class Precision { kFloat32, kFloat64 };

enum class Storage : std::uint8_t {
  kFloat,
  kDouble,
  kBool,
  kInt8,
  kUint8,
  kInt16,
  kUint16,
  kInt32,
  kUint32,
  kInt64,
  kUint64,
  kString,
  kComplex64,
  kComplex128,
};

template <typename T>
struct StorageOf;
template <>
struct StorageOf<float> {
  static constexpr Storage value = Storage::kFloat;
};
template <>
struct StorageOf<double> {
  static constexpr Storage value = Storage::kDouble;
};
template <>
struct StorageOf<bool> {
  static constexpr Storage value = Storage::kBool;
};
template <>
struct StorageOf<std::int8_t> {
  static constexpr Storage value = Storage::kInt8;
};
template <>
struct StorageOf<std::uint8_t> {
  static constexpr Storage value = Storage::kUint8;
};
template <>
struct StorageOf<std::int16_t> {
  static constexpr Storage value = Storage::kInt16;
};
template <>
struct StorageOf<std::uint16_t> {
  static constexpr Storage value = Storage::kUint16;
};
template <>
struct StorageOf<std::int32_t> {
  static constexpr Storage value = Storage::kInt32;
};
template <>
struct StorageOf<std::uint32_t> {
  static constexpr Storage value = Storage::kUint32;
};
template <>
struct StorageOf<std::int64_t> {
  static constexpr Storage value = Storage::kInt64;
};
template <>
struct StorageOf<std::uint64_t> {
  static constexpr Storage value = Storage::kUint64;
};
template <>
struct StorageOf<std::string> {
  static constexpr Storage value = Storage::kString;
};
template <>
struct StorageOf<std::complex<float>> {
  static constexpr Storage value = Storage::kComplex64;
};
template <>
struct StorageOf<std::complex<double>> {
  static constexpr Storage value = Storage::kComplex128;
};

Storage storage_for(DType dtype, Precision precision);
std::size_t storage_bytes(Storage storage);  // of one element; 0 for strings

class Array {
 public:
  Array() = default;
  // Uninitialised elements (strings empty). Throws std::bad_alloc, which the executor turns into Code::kResource.
  Array(DType dtype, Dims dims, Precision precision);
  // A read-only window on memory someone else keeps alive (a tensor's bytes): no copy.
  static Array view(DType dtype, Dims dims, Storage storage, std::shared_ptr<const void> owner, const void* data);

  DType dtype() const { return dtype_; }
  Storage storage() const { return storage_; }
  const Dims& dims() const { return dims_; }
  int rank() const { return static_cast<int>(dims_.size()); }
  std::int64_t dim(int axis) const { return dims_[static_cast<std::size_t>(axis < 0 ? axis + rank() : axis)]; }
  std::int64_t size() const { return size_; }
  bool defined() const { return dtype_ != DType::kUndefined; }

  // REQUIRES: storage() == StorageOf<T>::value. data<T>() const never copies; mutable_data<T>() REQUIRES that this
  // array was just made by its kernel (arrays are shared between nodes once published, so kernels never write to
  // inputs).
  template <typename T>
  const T* data() const {
    return static_cast<const T*>(data_);
  }
  template <typename T>
  T* mutable_data() {
    return const_cast<T*>(static_cast<const T*>(data_));
  }
  const void* raw() const { return data_; }
  void* mutable_raw() { return const_cast<void*>(data_); }

  Array reshaped(Dims dims) const;   // same elements (REQUIRES equal count), shared memory
  Array retyped(DType dtype) const;  // same storage under another logical type
  bool unique() const { return owner_.use_count() == 1 && !read_only_; }  // in-place reuse is safe

 private:
  DType dtype_ = DType::kUndefined;
  Storage storage_ = Storage::kFloat;
  Dims dims_;
  std::int64_t size_ = 0;
  std::shared_ptr<const void> owner_;
  const void* data_ = nullptr;
  bool read_only_ = false;
};

// Weight bytes to run-time elements: a view when the storage type is the element type and aligned, else converted.
Result<Array> to_array(const Tensor& tensor, Precision precision);
// Back to packed ONNX bytes of the logical element type (rounding doubles once).
Result<Tensor> to_tensor(const Array& array);
// All elements as double / int64 (any real storage). Errors: invalid_argument for strings and complex.
Result<std::vector<double>> to_doubles(const Array& array);
Result<std::vector<std::int64_t>> to_int64s(const Array& array);
// Rounds the elements of a float array in place to what dtype() can hold.
void round_to_dtype(Array& array);

// What flows along an edge: an array; a sequence of data; an optional holding one or nothing; or absent (omitted
// input).
struct Datum {
  enum class Kind { kAbsent, kArray, kSequence, kOptional } kind = Kind::kAbsent;
  Array array;
  std::shared_ptr<const std::vector<Datum>> items;  // sequence: all; optional: zero or one

  Datum() = default;
  Datum(Array value) : kind(Kind::kArray), array(std::move(value)) {}  // NOLINT: implicit on purpose
  static Datum sequence(std::vector<Datum> values);
  static Datum optional(std::vector<Datum> zero_or_one);
  bool present() const { return kind != Kind::kAbsent; }
  bool is_array() const { return kind == Kind::kArray; }
};

}  // namespace onnxfold
