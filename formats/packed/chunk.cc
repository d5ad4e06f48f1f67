#include "formats/packed/chunk.h"

#include <fmt/format.h>
#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <array>

namespace onnxfold {
namespace {

constexpr std::uint8_t kStored = 0, kZstd = 1, kPlanes2 = 16, kPlanes4 = 32;
// Higher levels look for longer repetitions, of which weights have none: level 19 gains 0.2 % in eight times the time.
constexpr int kLevel = 3;

std::size_t planes_of(std::uint8_t method) { return (method & kPlanes2) != 0 ? 2 : (method & kPlanes4) != 0 ? 4 : 1; }

bool is_method(std::uint8_t method) {
  constexpr std::array kMethods = {kStored, kZstd, static_cast<std::uint8_t>(kZstd | kPlanes2),
                                   static_cast<std::uint8_t>(kZstd | kPlanes4)};
  return std::find(kMethods.begin(), kMethods.end(), method) != kMethods.end();
}

Buffer split_planes(std::span<const std::byte> bytes, std::size_t planes) {
  const std::size_t groups = bytes.size() / planes;
  Buffer out(bytes.begin(), bytes.end());
  for (std::size_t p = 0; p < planes; ++p) {
    for (std::size_t i = 0; i < groups; ++i) out[p * groups + i] = bytes[i * planes + p];
  }
  return out;
}

Buffer join_planes(const Buffer& split, std::size_t planes) {
  const std::size_t groups = split.size() / planes;
  Buffer out(split);
  for (std::size_t p = 0; p < planes; ++p) {
    for (std::size_t i = 0; i < groups; ++i) out[i * planes + p] = split[p * groups + i];
  }
  return out;
}

Result<Buffer> compressed(std::span<const std::byte> bytes) {
  Buffer out(ZSTD_compressBound(bytes.size()));
  const std::size_t size = ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), kLevel);
  if (ZSTD_isError(size) != 0) return fail(Code::kInternal, fmt::format("zstd: {}", ZSTD_getErrorName(size)));
  out.resize(size);
  return out;
}

}  // namespace

Result<PackedChunk> pack_chunk(std::span<const std::byte> bytes) {
  PackedChunk best{kStored, XXH3_64bits(bytes.data(), bytes.size()), Buffer(bytes.begin(), bytes.end())};
  for (const std::uint8_t planes : {std::uint8_t{0}, kPlanes2, kPlanes4}) {
    const auto method = static_cast<std::uint8_t>(kZstd | planes);
    Result<Buffer> tried = planes == 0 ? compressed(bytes) : compressed(split_planes(bytes, planes_of(method)));
    if (!tried) return fail(tried.error());
    if (tried->size() < best.data.size()) {
      best.method = method;
      best.data = std::move(*tried);
    }
  }
  return best;
}

Result<Buffer> unpack_chunk(const PackedChunk& chunk, std::size_t size) {
  if (!is_method(chunk.method)) return fail(Code::kCorrupt, fmt::format("unknown method {}", chunk.method));
  Buffer out = chunk.data;
  if (chunk.method != kStored) {
    out.resize(size);
    const std::size_t got = ZSTD_decompress(out.data(), out.size(), chunk.data.data(), chunk.data.size());
    if (ZSTD_isError(got) != 0) return fail(Code::kCorrupt, fmt::format("zstd: {}", ZSTD_getErrorName(got)));
    out.resize(got);
  }
  if (out.size() != size) return fail(Code::kCorrupt, fmt::format("holds {} bytes, needs {}", out.size(), size));
  if (const std::size_t planes = planes_of(chunk.method); planes > 1) out = join_planes(out, planes);
  if (XXH3_64bits(out.data(), out.size()) != chunk.checksum) return fail(Code::kCorrupt, "the checksum differs");
  return out;
}

}  // namespace onnxfold
