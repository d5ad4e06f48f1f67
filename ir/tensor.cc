#include "ir/tensor.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cassert>
#include <mutex>

#include "ir/mapped_file.h"

namespace onnxfold {
namespace {

class OwnedSource final : public TensorSource {
 public:
  explicit OwnedSource(Buffer data) : data_(std::make_shared<const Buffer>(std::move(data))) {}
  Result<Bytes> load() const override { return Bytes({data_->data(), data_->size()}, data_); }

 private:
  std::shared_ptr<const Buffer> data_;
};

class DeferredSource final : public TensorSource {
 public:
  explicit DeferredSource(DeferredFn make) : make_(std::move(make)) {}
  Result<Bytes> load() const override {
    OF_ASSIGN(Buffer made, make_());
    auto owner = std::make_shared<const Buffer>(std::move(made));
    return Bytes({owner->data(), owner->size()}, owner);
  }
  bool deferred() const override { return true; }

 private:
  DeferredFn make_;
};

void hash_strings(XXH3_state_t* state, const std::vector<std::string>& strings) {
  for (const std::string& text : strings) {
    const std::uint64_t length = text.size();
    XXH3_128bits_update(state, &length, sizeof length);
    XXH3_128bits_update(state, text.data(), text.size());
  }
}

}  // namespace

struct Tensor::Impl {
  DType dtype = DType::kUndefined;
  Dims dims;
  std::int64_t count = 0;
  std::int64_t nbytes = 0;
  std::shared_ptr<const TensorSource> source;
  std::vector<std::string> strings;
  mutable std::once_flag hashed;
  mutable Result<std::string> hash = std::string();
  mutable std::mutex realigning;
  mutable std::weak_ptr<const Buffer> realigned;
};

std::int64_t element_count(const Dims& dims) {
  std::int64_t count = 1;
  for (const std::int64_t dim : dims) count *= dim;
  return count;
}

Tensor Tensor::from_source(DType dtype, Dims dims, std::shared_ptr<const TensorSource> source) {
  auto impl = std::make_shared<Impl>();
  impl->dtype = dtype;
  impl->count = element_count(dims);
  impl->nbytes = packed_bytes(dtype, impl->count).value_or(0);
  impl->dims = std::move(dims);
  impl->source = std::move(source);
  return Tensor(std::move(impl));
}

Tensor Tensor::owned(DType dtype, Dims dims, Buffer data) {
  assert(packed_bytes(dtype, element_count(dims)) == static_cast<std::int64_t>(data.size()));
  return from_source(dtype, std::move(dims), std::make_shared<OwnedSource>(std::move(data)));
}

Tensor Tensor::strings(Dims dims, std::vector<std::string> data) {
  auto impl = std::make_shared<Impl>();
  impl->dtype = DType::kString;
  impl->count = element_count(dims);
  impl->dims = std::move(dims);
  impl->strings = std::move(data);
  return Tensor(std::move(impl));
}

Tensor Tensor::deferred(DType dtype, Dims dims, DeferredFn make) {
  return from_source(dtype, std::move(dims), std::make_shared<DeferredSource>(std::move(make)));
}

template <typename T>
Tensor Tensor::of(Dims dims, const std::vector<T>& data) {
  static_assert(!std::is_same_v<T, bool>);
  constexpr DType kType = std::is_same_v<T, float>          ? DType::kFloat32
                          : std::is_same_v<T, double>       ? DType::kFloat64
                          : std::is_same_v<T, std::int64_t> ? DType::kInt64
                          : std::is_same_v<T, std::int32_t> ? DType::kInt32
                          : std::is_same_v<T, std::int8_t>  ? DType::kInt8
                          : std::is_same_v<T, std::int16_t> ? DType::kInt16
                          : std::is_same_v<T, std::uint8_t> ? DType::kUint8
                                                            : DType::kUndefined;
  static_assert(kType != DType::kUndefined);
  const auto* first = reinterpret_cast<const std::byte*>(data.data());
  return owned(kType, std::move(dims), Buffer(first, first + data.size() * sizeof(T)));
}
template Tensor Tensor::of(Dims, const std::vector<float>&);
template Tensor Tensor::of(Dims, const std::vector<double>&);
template Tensor Tensor::of(Dims, const std::vector<std::int64_t>&);
template Tensor Tensor::of(Dims, const std::vector<std::int32_t>&);
template Tensor Tensor::of(Dims, const std::vector<std::int8_t>&);
template Tensor Tensor::of(Dims, const std::vector<std::int16_t>&);
template Tensor Tensor::of(Dims, const std::vector<std::uint8_t>&);

DType Tensor::dtype() const { return impl_ ? impl_->dtype : DType::kUndefined; }

const Dims& Tensor::dims() const {
  static const Dims kNone;
  return impl_ ? impl_->dims : kNone;
}

std::int64_t Tensor::size() const { return impl_ ? impl_->count : 0; }
std::int64_t Tensor::nbytes() const { return impl_ ? impl_->nbytes : 0; }

Result<Bytes> Tensor::bytes() const {
  if (!impl_ || !impl_->source) return Bytes();
  OF_ASSIGN(Bytes loaded, impl_->source->load());
  if (static_cast<std::int64_t>(loaded.size()) != impl_->nbytes) {
    return fail(Code::kInternal,
                fmt::format("a tensor source gave {} bytes where {} were due", loaded.size(), impl_->nbytes));
  }
  return loaded;
}

Result<Bytes> Tensor::aligned_bytes(std::size_t alignment) const {
  OF_ASSIGN(Bytes loaded, bytes());
  if (reinterpret_cast<std::uintptr_t>(loaded.data()) % alignment == 0) return loaded;
  const std::lock_guard lock(impl_->realigning);
  std::shared_ptr<const Buffer> copy = impl_->realigned.lock();
  if (copy == nullptr) {
    copy = std::make_shared<const Buffer>(loaded.span().begin(), loaded.span().end());
    impl_->realigned = copy;
  }
  return Bytes(*copy, copy);
}

const std::vector<std::string>& Tensor::string_data() const {
  static const std::vector<std::string> kNone;
  return impl_ ? impl_->strings : kNone;
}

const FileRegion* Tensor::file() const { return impl_ && impl_->source ? impl_->source->file() : nullptr; }
bool Tensor::is_deferred() const { return impl_ && impl_->source && impl_->source->deferred(); }

Result<std::string> Tensor::content_hash() const {
  if (!impl_) return std::string(32, '0');
  std::call_once(impl_->hashed, [this] {
    const auto loaded = bytes();
    if (!loaded) {
      impl_->hash = fail(loaded.error());
      return;
    }
    XXH3_state_t* state = XXH3_createState();
    XXH3_128bits_reset(state);
    const auto code = static_cast<std::int32_t>(impl_->dtype);
    XXH3_128bits_update(state, &code, sizeof code);
    const std::uint64_t rank = impl_->dims.size();
    XXH3_128bits_update(state, &rank, sizeof rank);
    XXH3_128bits_update(state, impl_->dims.data(), impl_->dims.size() * sizeof(std::int64_t));
    constexpr std::size_t kChunk = std::size_t{8} << 20;  // so that a mapped tensor is not resident as a whole
    for (std::size_t at = 0; at < loaded->size(); at += kChunk) {
      const std::span<const std::byte> part = loaded->span().subspan(at, std::min(kChunk, loaded->size() - at));
      XXH3_128bits_update(state, part.data(), part.size());
      if (file() != nullptr) release_pages(part);
    }
    hash_strings(state, impl_->strings);
    const XXH128_hash_t digest = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    impl_->hash = fmt::format("{:016x}{:016x}", digest.high64, digest.low64);
  });
  return impl_->hash;
}

Tensor Tensor::reshaped(Dims dims) const { return reinterpreted(dtype(), std::move(dims)); }

Tensor Tensor::reinterpreted(DType dtype, Dims dims) const {
  if (impl_ && impl_->dtype == DType::kString) return strings(std::move(dims), impl_->strings);
  assert(impl_ && packed_bytes(dtype, element_count(dims)) == impl_->nbytes);
  return from_source(dtype, std::move(dims), impl_->source);
}

}  // namespace onnxfold
