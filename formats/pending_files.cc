#include "formats/pending_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace onnxfold {
namespace {

// Paths in fixed memory, because a signal handler may neither allocate nor lock.
constexpr std::size_t kSlots = 16;
constexpr std::size_t kPathLength = 4096;

struct Slot {
  std::atomic<bool> taken = false;
  std::atomic<bool> armed = false;
  std::array<char, kPathLength> path{};
};

std::array<Slot, kSlots>& slots() {
  static std::array<Slot, kSlots> all;
  return all;
}

int remember(const std::string& path) {
  if (path.size() >= kPathLength) return -1;
  for (std::size_t i = 0; i < kSlots; ++i) {
    Slot& slot = slots()[i];
    if (slot.taken.exchange(true)) continue;
    std::memcpy(slot.path.data(), path.c_str(), path.size() + 1);
    slot.armed = true;
    return static_cast<int>(i);
  }
  return -1;
}

void forget(int index) {
  if (index < 0) return;
  Slot& slot = slots()[static_cast<std::size_t>(index)];
  slot.armed = false;
  slot.taken = false;
}

}  // namespace

void remove_pending_files() noexcept {
  for (Slot& slot : slots()) {
    if (slot.armed) unlink(slot.path.data());
  }
}

tl::unexpected<Error> PendingFile::failed(const char* what) const {
  return fail(Code::kIo, fmt::format("{}: cannot {}: {}", target_, what, std::strerror(errno)));
}

Result<PendingFile> PendingFile::create(const std::string& target) {
  PendingFile file;
  file.target_ = target;
  const std::filesystem::path path(target);
  std::string pattern = (path.parent_path() / ("." + path.filename().string() + ".tmp-XXXXXX")).string();
  file.descriptor_ = mkostemp(pattern.data(), O_CLOEXEC);
  if (file.descriptor_ < 0) return file.failed("write beside it");
  file.temporary_ = pattern;
  file.slot_ = remember(pattern);
  const mode_t mask = umask(0);
  umask(mask);
  fchmod(file.descriptor_, 0666 & ~mask);  // mkostemp makes private files
  return file;
}

PendingFile::PendingFile(PendingFile&& other) noexcept
    : target_(std::move(other.target_)),
      temporary_(std::move(other.temporary_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      slot_(std::exchange(other.slot_, -1)) {}

PendingFile::~PendingFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  unlink(temporary_.c_str());
  forget(slot_);
}

Status PendingFile::write(const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(descriptor_, at, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed("write");
    at += written;
    size -= static_cast<std::size_t>(written);
  }
  return {};
}

Status PendingFile::write_at(const void* data, std::size_t size, std::int64_t offset) {
  const char* at = static_cast<const char*>(data);
  const std::int64_t begin = offset;
  while (size > 0) {
    const ssize_t written = pwrite(descriptor_, at, size, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed("write");
    at += written;
    offset += written;
    size -= static_cast<std::size_t>(written);
  }
  start_writeback(begin, offset - begin);
  return {};
}

// The disk works while the next tensor is made, and flush() waits less. Advice: an error shows up there.
void PendingFile::start_writeback([[maybe_unused]] std::int64_t begin, [[maybe_unused]] std::int64_t size) const {
#ifdef SYNC_FILE_RANGE_WRITE
  sync_file_range(descriptor_, begin, size, SYNC_FILE_RANGE_WRITE);
#endif
}

Status PendingFile::resize(std::int64_t size) {
  if (ftruncate(descriptor_, size) != 0) return failed("write");
  return {};
}

Status PendingFile::flush() {
  if (fsync(descriptor_) != 0) return failed("write");
  return {};
}

Status PendingFile::commit() {
  if (rename(temporary_.c_str(), target_.c_str()) != 0) return failed("replace it");
  ::close(descriptor_);
  descriptor_ = -1;
  forget(slot_);
  return {};
}

}  // namespace onnxfold
