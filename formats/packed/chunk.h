// One chunk of a packed file: container.md.
#pragma once

#include <cstdint>
#include <span>

#include "ir/result.h"
#include "ir/tensor.h"

namespace onnxfold {

constexpr std::size_t kPackedChunk = 256 << 10;

struct PackedChunk {
  std::uint8_t method = 0;
  std::uint64_t checksum = 0;
  Buffer data;
};

// The smallest of the methods. The same bytes for the same input. Errors: internal (zstd failed).
Result<PackedChunk> pack_chunk(std::span<const std::byte> bytes);
// `size` bytes. Errors: corrupt (unknown method, sizes that do not fit, zstd's data broken, checksum).
Result<Buffer> unpack_chunk(const PackedChunk& chunk, std::size_t size);

}  // namespace onnxfold
