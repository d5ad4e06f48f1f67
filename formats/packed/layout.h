// Numbers and names of the container: container.md.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string_view>

#include "ir/tensor.h"

namespace onnxfold {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kPackedMagic("\x89OFZ\r\n\x1a\n", 8), kPackedEnd("OFZ-end\n", 8);
constexpr std::uint32_t kPackedVersion = 1, kMostPackedFiles = 65536, kLongestPackedName = 4096;
constexpr std::size_t kChunkHead = 1 + 4 + 8;  // method, packed size, checksum

template <class T>
void append_number(Buffer& out, T number) {
  const std::size_t at = out.size();
  out.resize(at + sizeof number);
  std::memcpy(out.data() + at, &number, sizeof number);
}

template <class T>
T number_at(const std::byte* bytes) {
  T number;
  std::memcpy(&number, bytes, sizeof number);
  return number;
}

// Relative, with no part that is empty, "." or "..", and no backslash or zero byte.
bool is_packed_name(std::string_view name);

// Runs `work(0)` to `work(count - 1)` on `threads` threads. It must not throw.
void run_chunks(std::size_t count, int threads, const std::function<void(std::size_t)>& work);

}  // namespace onnxfold
