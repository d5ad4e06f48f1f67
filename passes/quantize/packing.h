// Byte layouts of block-quantized weights.
//
// MatMulNBits (com.microsoft): codes [rows, blocks, block * bits / 8], low bits first, unsigned; scales [rows, blocks];
// zero
//   points [rows, ceil(blocks * bits / 8)], each row starting on a byte. Rows are output columns.
// Standard (DequantizeLinear): codes packed over the whole array with no row alignment; signed types hold code -
// 2^(bits-1).
#pragma once

#include "passes/quantize/blockwise.h"

namespace onnxfold {

// Codes as MatMulNBits packs them; `pad`: keep the padding of the last block (MatMulNBits) or cut to cols (tables).
Buffer pack_rows(const BlockCodes& codes, int bits, bool pad);
Buffer pack_zero_rows(const BlockCodes& codes, int bits);
// Codes in the standard packing, as [rows, cols] or, transposed, [cols, rows]; `is_signed` subtracts 2^(bits-1).
Buffer pack_standard(const BlockCodes& codes, int bits, bool transposed, bool is_signed);
Buffer pack_standard_zeros(const BlockCodes& codes, int bits, bool transposed);
// Scales in `type`, [rows, blocks] or transposed.
Result<Buffer> pack_scales(const BlockCodes& codes, DType type, bool transposed);

// The reverse: one code of each byte position. `count` codes from the low bits of packed bytes on.
std::vector<std::uint8_t> unpack(std::span<const std::byte> bytes, int bits, std::int64_t count);

}  // namespace onnxfold
