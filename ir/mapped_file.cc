#include "ir/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace onnxfold {

void release_pages(std::span<const std::byte> data) {
  static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(data.data());
  const std::uintptr_t begin = (first + page - 1) / page * page;
  const std::uintptr_t end = (first + data.size()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

namespace {

class RegionSource final : public TensorSource {
 public:
  RegionSource(std::shared_ptr<const MappedFile> file, std::int64_t offset, std::int64_t length)
      : file_(std::move(file)), region_{file_->path(), offset, length} {}

  Result<Bytes> load() const override {
    const auto data =
        file_->data().subspan(static_cast<std::size_t>(region_.offset), static_cast<std::size_t>(region_.length));
    const std::shared_ptr<const void> loan(data.data(), [file = file_, data](const void*) { release_pages(data); });
    return Bytes(data, loan);
  }
  const FileRegion* file() const override { return &region_; }

 private:
  std::shared_ptr<const MappedFile> file_;
  FileRegion region_;
};

}  // namespace

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return fail(Code::kIo, fmt::format("{}: cannot open: {}", path, std::strerror(errno)));
  struct stat info = {};
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  if (fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(descriptor);
    return fail(Code::kIo, fmt::format("{}: not a regular file", path));
  }
  file->size_ = static_cast<std::size_t>(info.st_size);
  if (file->size_ > 0) {
    void* address = mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (address == MAP_FAILED) {
      const int error = errno;
      ::close(descriptor);
      file->size_ = 0;
      return fail(Code::kIo, fmt::format("{}: cannot map: {}", path, std::strerror(error)));
    }
    file->data_ = static_cast<const std::byte*>(address);
  }
  ::close(descriptor);
  return std::shared_ptr<const MappedFile>(std::move(file));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

Result<std::shared_ptr<const TensorSource>> map_region(std::shared_ptr<const MappedFile> file, std::int64_t offset,
                                                       std::int64_t length) {
  const auto size = static_cast<std::int64_t>(file->data().size());
  if (offset < 0 || length < 0 || offset > size || length > size - offset) {
    return fail(Code::kCorrupt, fmt::format("{}: bytes {} to {} lie outside the file of {} bytes", file->path(), offset,
                                            static_cast<double>(offset) + static_cast<double>(length), size));
  }
  return std::shared_ptr<const TensorSource>(std::make_shared<RegionSource>(std::move(file), offset, length));
}

}  // namespace onnxfold
