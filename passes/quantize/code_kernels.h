// Codes to packed bytes and to numbers, with the vectors of the machine; same results on every machine.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxfold {

// Packs `count` codes of 4 or 2 bits, low bits first; the rest of the last byte is 0. REQUIRES: codes fit their bits.
void pack_codes(const std::uint8_t* codes, std::int64_t count, int bits, std::byte* out);

// out[i] = (codes[i] - zero) * scale, each rounded once.
void decode_codes(const std::uint8_t* codes, std::int64_t count, float zero, float scale, float* out);

}  // namespace onnxfold
