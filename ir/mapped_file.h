// Read-only files mapped into memory, and tensors that are regions of them.
#pragma once

#include <memory>
#include <string>

#include "ir/tensor.h"

namespace onnxfold {

// A whole file mapped read-only. Pages touched through a region are dropped again when its Bytes handle dies, so that
// resident size stays near the tensors in use, not the file.
class MappedFile {
 public:
  // Errors: io (cannot open, not a regular file).
  static Result<std::shared_ptr<const MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> data() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  MappedFile() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Tells the kernel that whole pages inside `data` are not needed in memory any more; reading them again reads the file
// again, and another handle on the same region only pays a page fault. REQUIRES: part of a read-only mapping of a file.
void release_pages(std::span<const std::byte> data);

// Bytes [offset, offset + length) of `file`, released on drop. Errors: corrupt when the region is not inside.
Result<std::shared_ptr<const TensorSource>> map_region(std::shared_ptr<const MappedFile> file, std::int64_t offset,
                                                       std::int64_t length);

}  // namespace onnxfold
