// Tensor: an immutable, shared, lazily loaded array.
//
// The element type, shape and byte size are always known; the bytes come on demand from one of four sources: an owned
// buffer, memory kept alive by someone else (the parsed proto), a region of a mapped file, or a *deferred* function.
// Copying a Tensor copies a pointer. Layout: row-major, little-endian, sub-byte elements packed as ONNX packs them
// (first element in the low bits, no row alignment).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ir/dtype.h"
#include "ir/result.h"

namespace onnxfold {

using Dims = std::vector<std::int64_t>;
using Buffer = std::vector<std::byte>;

// Product of dims (1 for a scalar). Dims of a Tensor are never negative and their product never overflows.
std::int64_t element_count(const Dims& dims);

// A loan of a tensor's bytes. Dropping the last copy gives the memory back (mapped pages included).
class Bytes {
 public:
  Bytes() = default;
  Bytes(std::span<const std::byte> data, std::shared_ptr<const void> owner) : data_(data), owner_(std::move(owner)) {}

  std::span<const std::byte> span() const { return data_; }
  const std::byte* data() const { return data_.data(); }
  std::size_t size() const { return data_.size(); }
  // The bytes as T. File regions may be misaligned for T: x86-64 and AArch64 read those correctly through memcpy, so
  // use view<T>() only where aligned() holds, else copy.
  template <typename T>
  bool aligned() const {
    return reinterpret_cast<std::uintptr_t>(data_.data()) % alignof(T) == 0;
  }
  template <typename T>
  std::span<const T> view() const {
    return {reinterpret_cast<const T*>(data_.data()), data_.size() / sizeof(T)};
  }

 private:
  std::span<const std::byte> data_;
  std::shared_ptr<const void> owner_;
};

// Where a file region lies, so that a writer can copy it without loading and `inspect` can report dead bytes.
struct FileRegion {
  std::string path;
  std::int64_t offset = 0;
  std::int64_t length = 0;
};

// Makes the bytes of a deferred tensor: a pure function (same bytes at every call, safe to call from any thread).
using DeferredFn = std::function<Result<Buffer>()>;

// What a source must offer. Implementations: tensor.cc (owned, deferred), mapped_file.cc, formats/onnx (proto).
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual Result<Bytes> load() const = 0;
  virtual const FileRegion* file() const { return nullptr; }
  virtual bool deferred() const { return false; }
};

class Tensor {
 public:
  Tensor() = default;  // an undefined tensor: dtype kUndefined, no bytes

  // REQUIRES: data.size() == packed_bytes(dtype, element_count(dims)).
  static Tensor owned(DType dtype, Dims dims, Buffer data);
  static Tensor strings(Dims dims, std::vector<std::string> data);
  static Tensor from_source(DType dtype, Dims dims, std::shared_ptr<const TensorSource> source);
  // `make` is called at every bytes(); it must return exactly nbytes() bytes.
  static Tensor deferred(DType dtype, Dims dims, DeferredFn make);
  // Convenience for small constants: dims must multiply to data.size().
  template <typename T>
  static Tensor of(Dims dims, const std::vector<T>& data);
  static Tensor scalar(float value) { return of<float>({}, {value}); }
  static Tensor scalar(std::int64_t value) { return of<std::int64_t>({}, {value}); }

  DType dtype() const;
  const Dims& dims() const;
  int rank() const { return static_cast<int>(dims().size()); }
  std::int64_t size() const;    // number of elements
  std::int64_t nbytes() const;  // packed bytes; 0 for strings
  bool defined() const { return impl_ != nullptr; }

  // Errors: whatever the source reports (io, corrupt), or internal when a deferred function returns a wrong size.
  Result<Bytes> bytes() const;
  // The same where `alignment` divides the address; from a source that lies askew (weights inside of a model file), a
  // copy that all who hold one share. Not of a file's mapping, then: release_pages() is not for them. REQUIRES:
  // alignment at most 8.
  Result<Bytes> aligned_bytes(std::size_t alignment) const;
  const std::vector<std::string>& string_data() const;  // REQUIRES dtype kString
  const FileRegion* file() const;                       // null unless backed by a file
  bool is_deferred() const;

  // Same memory? (cheap; true for copies). Used to tell "unchanged" without reading bytes.
  bool same_as(const Tensor& other) const { return impl_ == other.impl_; }
  const void* identity() const { return impl_.get(); }
  // 128-bit content hash of dtype, dims and bytes as 32 hex digits, computed once per tensor.
  Result<std::string> content_hash() const;
  // Same bytes under another shape / element type of equal packed size (a view; REQUIRES equal byte count).
  Tensor reshaped(Dims dims) const;
  Tensor reinterpreted(DType dtype, Dims dims) const;

 private:
  struct Impl;
  explicit Tensor(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

// ---- Reading small tensors as numbers (shapes, axes, scales). ----

// All elements as int64 (any integer or bool type). Errors: invalid_argument for other types.
Result<std::vector<std::int64_t>> to_int64s(const Tensor& tensor);
// All elements as double (any real type, float8/4 and sub-byte integers decoded).
Result<std::vector<double>> to_doubles(const Tensor& tensor);
// All elements as float; exact for every type whose values a float holds, rounded to nearest otherwise.
Result<std::vector<float>> to_floats(const Tensor& tensor);
// The reverse: rounds to nearest even into `dtype` (saturating for float8/4 and integers, as ONNX Cast does).
Result<Tensor> from_doubles(DType dtype, Dims dims, std::span<const double> values);

}  // namespace onnxfold
