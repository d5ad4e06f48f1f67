#include "passes/tie/stacked_tensor.h"

#include <cstring>
#include <optional>

namespace onnxfold {
namespace {

class Item final : public TensorSource {
 public:
  Item(Tensor whole, std::int64_t offset, std::int64_t length)
      : whole_(std::move(whole)), offset_(static_cast<std::size_t>(offset)), length_(static_cast<std::size_t>(length)) {
    if (const FileRegion* file = whole_.file()) region_ = {file->path, file->offset + offset, length};
  }

  Result<Bytes> load() const override {
    OF_ASSIGN(Bytes bytes, whole_.bytes());
    const auto piece = bytes.span().subspan(offset_, length_);
    return Bytes(piece, std::make_shared<Bytes>(std::move(bytes)));
  }
  const FileRegion* file() const override { return region_ ? &*region_ : nullptr; }
  bool deferred() const override { return whole_.is_deferred(); }

 private:
  Tensor whole_;
  std::size_t offset_, length_;
  std::optional<FileRegion> region_;
};

Dims without_first(const Dims& dims) { return Dims(dims.begin() + 1, dims.end()); }

}  // namespace

Tensor stacked(const std::vector<Tensor>& parts) {
  Dims dims = parts.front().dims();
  dims.insert(dims.begin(), static_cast<std::int64_t>(parts.size()));
  return Tensor::deferred(parts.front().dtype(), std::move(dims), [parts]() -> Result<Buffer> {
    Buffer all;
    all.reserve(parts.size() * static_cast<std::size_t>(parts.front().nbytes()));
    for (const Tensor& part : parts) {
      OF_ASSIGN(const Bytes bytes, part.bytes());
      all.insert(all.end(), bytes.span().begin(), bytes.span().end());
    }
    return all;
  });
}

bool has_items(const Tensor& whole) {
  if (whole.rank() == 0 || whole.dims()[0] == 0 || whole.dtype() == DType::kString) return false;
  const auto item = packed_bytes(whole.dtype(), element_count(without_first(whole.dims())));
  return item && *item * whole.dims()[0] == whole.nbytes();
}

Tensor item_of(const Tensor& whole, std::int64_t index) {
  const std::int64_t length = whole.nbytes() / whole.dims()[0];
  return Tensor::from_source(whole.dtype(), without_first(whole.dims()),
                             std::make_shared<Item>(whole, index * length, length));
}

}  // namespace onnxfold
