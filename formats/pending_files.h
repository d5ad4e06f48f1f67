// Temporary files that must not survive: on success they are renamed, on failure or a signal they are removed.
#pragma once

#include <cstdint>
#include <string>

#include "ir/result.h"

namespace onnxfold {

// A file being written beside its target. Destroying it without commit() removes it.
class PendingFile {
 public:
  // Creates `<folder>/.<name>.tmp-XXXXXX`. Errors: io, naming the target.
  static Result<PendingFile> create(const std::string& target);
  ~PendingFile();
  PendingFile(PendingFile&& other) noexcept;
  PendingFile& operator=(PendingFile&&) = delete;

  // Errors: io (disk full...), naming the target.
  Status write(const void* data, std::size_t size);
  Status write_at(const void* data, std::size_t size, std::int64_t offset);
  Status resize(std::int64_t size);
  // Flushes to the disk, then renames over the target.
  Status flush();
  Status commit();
  int descriptor() const { return descriptor_; }
  const std::string& temporary() const { return temporary_; }
  const std::string& target() const { return target_; }

 private:
  PendingFile() = default;
  tl::unexpected<Error> failed(const char* what) const;
  void start_writeback(std::int64_t begin, std::int64_t size) const;
  std::string target_, temporary_;
  int descriptor_ = -1;
  int slot_ = -1;
};

// Removes every pending file of the process. Async-signal-safe.
void remove_pending_files() noexcept;

}  // namespace onnxfold
