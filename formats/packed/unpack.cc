#include <fmt/format.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>

#include "formats/packed/chunk.h"
#include "formats/packed/layout.h"
#include "formats/packed/packed_file.h"
#include "formats/pending_files.h"

namespace onnxfold {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t kChunksInWork = 8;  // a thread

class Unpacker {
 public:
  Unpacker(const std::string& path, const std::string& target, const PackOptions& options)
      : path_(path), target_(target), options_(options), in_(path, std::ios::binary) {}

  Result<PackStats> run() {
    std::error_code error;
    stats_.packed_bytes = static_cast<std::int64_t>(fs::file_size(path_, error));
    if (!in_ || error) return fail(Code::kIo, fmt::format("{}: cannot open", path_));
    OF_ASSIGN(const std::uint32_t files, head());
    for (std::uint32_t i = 0; i < files; ++i) OF_TRY(file(i == 0));
    OF_ASSIGN(const Buffer end, read(kPackedEnd.size()));
    if (std::memcmp(end.data(), kPackedEnd.data(), end.size()) != 0) return broken("the end mark is not there");
    if (in_.peek() != std::ifstream::traits_type::eof()) return broken("there are bytes behind the end mark");
    for (PendingFile& made : made_) OF_TRY(made.flush());
    // The model last: who waits for it finds the others.
    for (std::size_t i = made_.size(); i-- > 0;) OF_TRY(made_[i].commit());
    return stats_;
  }

 private:
  tl::unexpected<Error> broken(const std::string& what) const {
    return fail(Code::kCorrupt, fmt::format("{}: {}", path_, what));
  }

  Result<Buffer> read(std::size_t count) {
    Buffer out(count);
    in_.read(reinterpret_cast<char*>(out.data()), static_cast<std::streamsize>(count));
    if (in_.bad()) return fail(Code::kIo, fmt::format("{}: cannot read", path_));
    if (static_cast<std::size_t>(in_.gcount()) != count) return broken("it ends too early");
    return out;
  }

  template <class T>
  Result<T> number() {
    OF_ASSIGN(const Buffer bytes, read(sizeof(T)));
    return number_at<T>(bytes.data());
  }

  Result<std::uint32_t> head() {
    const auto magic = read(kPackedMagic.size());
    if (!magic || std::memcmp(magic->data(), kPackedMagic.data(), magic->size()) != 0) {
      return broken("it is no packed model");
    }
    OF_ASSIGN(const auto version, number<std::uint32_t>());
    if (version != kPackedVersion) {
      return fail(Code::kUnsupported,
                  fmt::format("{}: version {}, this program reads {}", path_, version, kPackedVersion));
    }
    OF_ASSIGN(const auto files, number<std::uint32_t>());
    if (files == 0 || files > kMostPackedFiles) return broken(fmt::format("says that it holds {} files", files));
    return files;
  }

  Status file(bool is_model) {
    OF_ASSIGN(const auto length, number<std::uint32_t>());
    if (length == 0 || length > kLongestPackedName) return broken(fmt::format("a name of {} bytes", length));
    OF_ASSIGN(const Buffer letters, read(length));
    const std::string name(reinterpret_cast<const char*>(letters.data()), letters.size());
    if (!is_packed_name(name)) return broken("the name of a file leaves the model's folder");
    OF_ASSIGN(const auto size, number<std::uint64_t>());
    OF_ASSIGN(PendingFile * out, create(name, is_model));
    stats_.files.push_back(name);
    return chunks(name, size, *out);
  }

  Result<PendingFile*> create(const std::string& name, bool is_model) {
    const fs::path place = is_model ? fs::path(target_) : fs::path(target_).parent_path() / fs::path(name);
    if (!places_.insert(place.lexically_normal()).second) return broken(fmt::format("'{}' twice", place.string()));
    std::error_code error;
    if (fs::exists(place, error) && !fs::is_regular_file(place, error)) {
      return fail(Code::kIo, fmt::format("cannot write '{}': it is not a regular file", place.string()));
    }
    if (!options_.overwrite && fs::exists(place, error)) {
      return fail(Code::kInvalidArgument, fmt::format("'{}' exists; --force overwrites it", place.string()));
    }
    if (!is_model && place.has_parent_path()) fs::create_directories(place.parent_path(), error);
    OF_ASSIGN(PendingFile made, PendingFile::create(place.string()));
    made_.push_back(std::move(made));
    return &made_.back();
  }

  Status chunks(const std::string& name, std::uint64_t size, PendingFile& out) {
    const std::size_t together = kChunksInWork * static_cast<std::size_t>(std::max(1, options_.threads));
    std::uint64_t left = size, first = 0;
    while (left > 0) {
      std::vector<PackedChunk> packed;
      std::vector<std::size_t> sizes;
      while (left > 0 && packed.size() < together) {
        sizes.push_back(static_cast<std::size_t>(std::min<std::uint64_t>(left, kPackedChunk)));
        auto chunk = read_chunk(sizes.back());
        if (!chunk) return fail(chunk.error().in(label(name, first + packed.size())));
        packed.push_back(std::move(*chunk));
        left -= sizes.back();
      }
      std::vector<std::optional<Result<Buffer>>> made(packed.size());
      run_chunks(packed.size(), options_.threads, [&](std::size_t i) { made[i] = unpack_chunk(packed[i], sizes[i]); });
      for (std::size_t i = 0; i < made.size(); ++i) {
        if (!*made[i]) return fail(made[i]->error().in(label(name, first + i)).in(path_));
        OF_TRY(out.write((*made[i])->data(), (*made[i])->size()));
        stats_.unpacked_bytes += static_cast<std::int64_t>((*made[i])->size());
      }
      first += packed.size();
      if (options_.progress) options_.progress(done(), stats_.packed_bytes);
    }
    return {};
  }

  static std::string label(const std::string& name, std::uint64_t chunk) {
    return fmt::format("file '{}', chunk {}", name, chunk);
  }

  std::int64_t done() { return static_cast<std::int64_t>(in_.tellg()); }

  Result<PackedChunk> read_chunk(std::size_t size) {
    OF_ASSIGN(const Buffer head, read(kChunkHead));
    PackedChunk chunk;
    chunk.method = number_at<std::uint8_t>(head.data());
    const auto packed = number_at<std::uint32_t>(head.data() + 1);
    chunk.checksum = number_at<std::uint64_t>(head.data() + 5);
    if (packed > size) return fail(Code::kCorrupt, fmt::format("says {} bytes for a chunk of {}", packed, size));
    OF_ASSIGN(chunk.data, read(packed));
    return chunk;
  }

  const std::string& path_;
  const std::string& target_;
  const PackOptions& options_;
  std::ifstream in_;
  std::deque<PendingFile> made_;
  std::set<fs::path> places_;
  PackStats stats_;
};

}  // namespace

Result<PackStats> unpack_files(const std::string& packed, const std::string& target, const PackOptions& options) {
  return Unpacker(packed, target, options).run();
}

}  // namespace onnxfold
