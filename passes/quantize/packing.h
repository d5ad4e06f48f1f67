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

// Codes as MatMulNBits and tables pack them: the first `cols` of every row, zeros where a row has no more.
Buffer pack_rows(const BlockCodes& codes, int bits, std::int64_t cols);
Buffer pack_zero_rows(const BlockCodes& codes, int bits);
// Codes in the standard packing, as [rows / inner, cols, inner]; `is_signed` subtracts 2^(bits-1).
Buffer pack_standard(const BlockCodes& codes, int bits, std::int64_t inner, bool is_signed);
// Zero points in the standard packing, as [rows / inner, blocks, inner].
Buffer pack_standard_zeros(const BlockCodes& codes, int bits, std::int64_t inner);
// Scales, or float zero points, [rows, blocks] -> [rows / inner, blocks, inner].
std::vector<float> arrange(const BlockCodes& codes, const std::vector<float>& numbers, std::int64_t inner);
Result<Buffer> to_bytes(DType type, const std::vector<float>& numbers);

// The reverse: one code of each byte position. `count` codes from the low bits of packed bytes on.
std::vector<std::uint8_t> unpack(std::span<const std::byte> bytes, int bits, std::int64_t count);

}  // namespace onnxfold
