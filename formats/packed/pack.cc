#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <optional>
#include <utility>

#include "formats/packed/chunk.h"
#include "formats/packed/layout.h"
#include "formats/packed/packed_file.h"
#include "formats/pending_files.h"

namespace onnxfold {
namespace {

constexpr std::size_t kChunksInWork = 8;  // a thread

class Source {
 public:
  static Result<Source> open(const std::string& path) {
    Source made(path);
    made.descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat facts {};
    if (made.descriptor_ < 0 || fstat(made.descriptor_, &facts) != 0) return made.failed();
    if (!S_ISREG(facts.st_mode)) return fail(Code::kIo, fmt::format("{}: it is not a regular file", path));
    made.size_ = facts.st_size;
    return made;
  }
  ~Source() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  Source(Source&& other) noexcept
      : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}
  Source& operator=(Source&&) = delete;

  std::int64_t size() const { return size_; }

  // Errors: io, also where the file has become shorter.
  Result<Buffer> read(std::size_t count) {
    Buffer out(count);
    std::size_t done = 0;
    while (done < count) {
      const ssize_t got = ::read(descriptor_, out.data() + done, count - done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return failed();
      if (got == 0) return fail(Code::kIo, fmt::format("{}: became shorter while it was read", path_));
      done += static_cast<std::size_t>(got);
    }
    return out;
  }

 private:
  explicit Source(std::string path) : path_(std::move(path)) {}
  tl::unexpected<Error> failed() const { return fail(Code::kIo, fmt::format("{}: {}", path_, std::strerror(errno))); }
  std::string path_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;
};

class Packer {
 public:
  Packer(PendingFile& file, const PackOptions& options) : file_(file), options_(options) {}

  Status head(std::size_t files) {
    Buffer out(kPackedMagic.size());
    std::memcpy(out.data(), kPackedMagic.data(), kPackedMagic.size());
    append_number(out, kPackedVersion);
    append_number(out, static_cast<std::uint32_t>(files));
    return write(out);
  }

  Status add(Source& source, const std::string& name, std::int64_t total) {
    Buffer out;
    append_number(out, static_cast<std::uint32_t>(name.size()));
    const std::size_t at = out.size();
    out.resize(at + name.size());
    std::memcpy(out.data() + at, name.data(), name.size());
    append_number(out, static_cast<std::uint64_t>(source.size()));
    OF_TRY(write(out));
    const std::size_t together = kChunksInWork * static_cast<std::size_t>(std::max(1, options_.threads));
    std::int64_t left = source.size();
    while (left > 0) {
      std::vector<Buffer> raw;
      while (left > 0 && raw.size() < together) {
        const auto count = std::min<std::int64_t>(left, kPackedChunk);
        OF_ASSIGN(raw.emplace_back(), source.read(static_cast<std::size_t>(count)));
        left -= count;
        stats.unpacked_bytes += count;
      }
      OF_TRY(pack(raw));
      if (options_.progress) options_.progress(stats.unpacked_bytes, total);
    }
    stats.files.push_back(name);
    return {};
  }

  Status end() {
    Buffer out(kPackedEnd.size());
    std::memcpy(out.data(), kPackedEnd.data(), kPackedEnd.size());
    return write(out);
  }

  PackStats stats;

 private:
  Status pack(const std::vector<Buffer>& raw) {
    std::vector<std::optional<Result<PackedChunk>>> made(raw.size());
    run_chunks(raw.size(), options_.threads, [&](std::size_t i) { made[i] = pack_chunk(raw[i]); });
    for (const auto& chunk : made) {
      if (!*chunk) return fail(chunk->error());
      const PackedChunk& packed = **chunk;
      Buffer head;
      append_number(head, packed.method);
      append_number(head, static_cast<std::uint32_t>(packed.data.size()));
      append_number(head, packed.checksum);
      OF_TRY(write(head));
      OF_TRY(write(packed.data));
    }
    return {};
  }

  Status write(const Buffer& bytes) {
    stats.packed_bytes += static_cast<std::int64_t>(bytes.size());
    return file_.write(bytes.data(), bytes.size());
  }

  PendingFile& file_;
  const PackOptions& options_;
};

}  // namespace

Result<PackStats> pack_files(const std::string& folder, const std::vector<std::string>& names,
                             const std::string& target, const PackOptions& options) {
  if (names.empty() || names.size() > kMostPackedFiles) return fail(Code::kInvalidArgument, "no file, or too many");
  if (!options.overwrite && std::filesystem::exists(target)) {
    return fail(Code::kInvalidArgument, fmt::format("'{}' exists; --force overwrites it", target));
  }
  std::vector<Source> sources;
  std::int64_t total = 0;
  for (const std::string& name : names) {
    if (!is_packed_name(name)) return fail(Code::kInvalidArgument, fmt::format("'{}' is no name in a folder", name));
    OF_ASSIGN(Source source, Source::open((std::filesystem::path(folder) / name).string()));
    total += source.size();
    sources.push_back(std::move(source));
  }
  OF_ASSIGN(PendingFile file, PendingFile::create(target));
  Packer packer(file, options);
  OF_TRY(packer.head(names.size()));
  for (std::size_t i = 0; i < names.size(); ++i) OF_TRY(packer.add(sources[i], names[i], total));
  OF_TRY(packer.end());
  OF_TRY(file.commit());
  return packer.stats;
}

}  // namespace onnxfold
