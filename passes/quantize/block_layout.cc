#include "passes/quantize/block_layout.h"

#include <algorithm>
#include <cstring>

#include "exec/parallel.h"
#include "passes/quantize/packing.h"

namespace onnxfold {
namespace {

bool is_standard(BlockLayout layout) {
  return layout == BlockLayout::kStandard || layout == BlockLayout::kStandardAcross;
}

DType standard_type(int bits, bool is_signed) {
  if (bits == 2) return is_signed ? DType::kInt2 : DType::kUint2;
  if (bits == 4) return is_signed ? DType::kInt4 : DType::kUint4;
  return is_signed ? DType::kInt8 : DType::kUint8;
}

// What turns a stored code into an unsigned one with the same distance to its zero point.
std::uint8_t sign_flip(const StoredBlocks& from) {
  const bool flip = from.standard() && is_signed(from.codes.dtype());
  return static_cast<std::uint8_t>(flip ? 1 << (from.bits - 1) : 0);
}

BlockCodes empty_codes(const StoredBlocks& from) {
  BlockCodes out;
  out.rows = from.rows;
  out.cols = from.cols;
  out.block = from.block;
  out.blocks = from.blocks();
  // A table's rows are never padded; a single block far longer than the row must not size the memory.
  if (from.layout == BlockLayout::kTable && out.blocks == 1) out.block = from.cols;
  return out;
}

// Behind a short block stand the bytes that ONNX Runtime's quantizer leaves (blockwise.cc): zeros, but a half-filled
// byte repeats the code two before it. So a weight that was quantized there comes back byte for byte.
void pad_row(std::uint8_t* row, const StoredBlocks& from) {
  const std::int64_t count = from.cols % from.block;
  if (from.bits != 4 || count % 2 == 0) return;
  const bool second = (from.blocks() - 1) % 2 == 1;
  if (count > 1 || second) row[from.cols] = row[from.cols - 2];
}

// Unsigned codes, one per byte, padded blocks.
Result<BlockCodes> read_codes(const StoredBlocks& from) {
  OF_ASSIGN(const Bytes bytes, from.codes.bytes());
  BlockCodes out = empty_codes(from);
  const std::int64_t stride = out.blocks * out.block;
  if (from.layout == BlockLayout::kPadded) {
    out.codes = unpack(bytes.span(), from.bits, from.rows * stride);
    return out;
  }
  const std::vector<std::uint8_t> flat = unpack(bytes.span(), from.bits, from.rows * from.cols);
  const bool across = from.layout == BlockLayout::kStandardAcross;
  const std::uint8_t flip = sign_flip(from);
  out.codes.resize(static_cast<std::size_t>(from.rows * stride));
  parallel_for(from.rows, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::uint8_t* to = out.codes.data() + row * stride;
      for (std::int64_t col = 0; col < from.cols; ++col) {
        to[col] = flat[static_cast<std::size_t>(across ? col * from.rows + row : row * from.cols + col)] ^ flip;
      }
      if (from.standard()) pad_row(to, from);
    }
  });
  return out;
}

// Unsigned zero points [rows, blocks]. REQUIRES: there are some, or the missing ones mean 0.
Result<BlockCodes> read_zeros(const StoredBlocks& from) {
  BlockCodes out = empty_codes(from);
  out.zeros.resize(static_cast<std::size_t>(out.rows * out.blocks));
  if (!from.zeros.defined()) return out;
  OF_ASSIGN(const Bytes bytes, from.zeros.bytes());
  const bool across = from.layout == BlockLayout::kStandardAcross;
  // Packed rows start on whole bytes; the standard form runs on.
  const std::int64_t per_byte = 8 / from.bits;
  const std::int64_t stride = from.standard() ? out.blocks : (out.blocks + per_byte - 1) / per_byte * per_byte;
  const std::vector<std::uint8_t> flat = unpack(bytes.span(), from.bits, from.rows * stride);
  const std::uint8_t flip = sign_flip(from);
  for (std::int64_t row = 0; row < out.rows; ++row) {
    for (std::int64_t b = 0; b < out.blocks; ++b) {
      const std::int64_t at = across ? b * out.rows + row : row * stride + b;
      out.zeros[static_cast<std::size_t>(row * out.blocks + b)] = flat[static_cast<std::size_t>(at)] ^ flip;
    }
  }
  return out;
}

// [from_rows, from_cols] -> [from_cols, from_rows], elements of `width` bytes.
Result<Buffer> transpose(const Tensor& tensor, std::int64_t from_rows, std::int64_t from_cols) {
  OF_ASSIGN(const Bytes bytes, tensor.bytes());
  const auto width = static_cast<std::size_t>(bit_width(tensor.dtype()) / 8);
  Buffer out(bytes.size());
  for (std::int64_t i = 0; i < from_rows; ++i) {
    for (std::int64_t j = 0; j < from_cols; ++j) {
      std::memcpy(out.data() + static_cast<std::size_t>(j * from_rows + i) * width,
                  bytes.data() + static_cast<std::size_t>(i * from_cols + j) * width, width);
    }
  }
  return out;
}

Tensor convert_scales(const StoredBlocks& from, BlockLayout to) {
  const bool was_across = from.layout == BlockLayout::kStandardAcross;
  const bool across = to == BlockLayout::kStandardAcross;
  const std::int64_t blocks = from.blocks();
  const Dims dims = across ? Dims{blocks, from.rows} : Dims{from.rows, blocks};
  const Tensor scales = from.scales;
  if (was_across == across) return scales.dims() == dims ? scales : scales.reshaped(dims);
  const std::int64_t outer = was_across ? blocks : from.rows;
  const std::int64_t inner = was_across ? from.rows : blocks;
  return Tensor::deferred(scales.dtype(), dims, [=] { return transpose(scales, outer, inner); });
}

StoredBlocks to_standard(const StoredBlocks& from, BlockLayout to) {
  StoredBlocks out = from;
  out.layout = to;
  const bool across = to == BlockLayout::kStandardAcross;
  // A missing zero point stands for the middle code, and that is what the signed types call 0.
  const bool is_signed = !from.zeros.defined();
  const DType type = standard_type(from.bits, is_signed);
  out.codes =
      Tensor::deferred(type, across ? Dims{from.cols, from.rows} : Dims{from.rows, from.cols}, [=]() -> Result<Buffer> {
        OF_ASSIGN(const BlockCodes codes, read_codes(from));
        return pack_standard(codes, from.bits, across ? from.rows : 1, is_signed);
      });
  if (is_signed) return out;
  out.zeros = Tensor::deferred(type, across ? Dims{from.blocks(), from.rows} : Dims{from.rows, from.blocks()},
                               [=]() -> Result<Buffer> {
                                 OF_ASSIGN(const BlockCodes codes, read_zeros(from));
                                 return pack_standard_zeros(codes, from.bits, across ? from.rows : 1);
                               });
  return out;
}

StoredBlocks to_packed(const StoredBlocks& from, BlockLayout to) {
  StoredBlocks out = from;
  out.layout = to;
  const bool pad = to == BlockLayout::kPadded;
  const Dims dims =
      pad ? Dims{from.rows, from.blocks(), from.block * from.bits / 8} : Dims{from.rows, from.cols * from.bits / 8};
  out.codes = Tensor::deferred(DType::kUint8, dims, [=]() -> Result<Buffer> {
    OF_ASSIGN(const BlockCodes codes, read_codes(from));
    return pack_rows(codes, from.bits, pad ? codes.blocks * codes.block : codes.cols);
  });
  // Without zero point the signed types mean the middle code, as the packed layouts do; the unsigned ones mean 0.
  if (!from.zeros.defined() && is_signed(from.codes.dtype())) return out;
  out.zeros =
      Tensor::deferred(DType::kUint8, {from.rows, (from.blocks() * from.bits + 7) / 8}, [=]() -> Result<Buffer> {
        OF_ASSIGN(const BlockCodes codes, read_zeros(from));
        return pack_zero_rows(codes, from.bits);
      });
  return out;
}

}  // namespace

std::int64_t StoredBlocks::bytes() const {
  return codes.nbytes() + scales.nbytes() + (zeros.defined() ? zeros.nbytes() : 0);
}

StoredBlocks convert_blocks(const StoredBlocks& from, BlockLayout to) {
  if (from.layout == to) return from;
  StoredBlocks out = is_standard(to) ? to_standard(from, to) : to_packed(from, to);
  out.scales = convert_scales(from, to);
  return out;
}

}  // namespace onnxfold
