// Block-quantized weights as models store them, and their exact conversion from one layout to another.
//
// Meaning of a weight in every layout: (code - zero) * scale. Codes and zero points change their packing and, between
// signed and unsigned types, both their offset, so that the difference stays; scales keep their bits.
#pragma once

#include "ir/tensor.h"
#include "passes/quantize/blockwise.h"

namespace onnxfold {

enum class BlockLayout {
  kPadded,          // MatMulNBits: uint8 [rows, blocks, block * bits / 8]; no zero point means 2^(bits-1)
  kTable,           // GatherBlockQuantized: uint8 [rows, cols * bits / 8]; no zero point means 2^(bits-1)
  kStandard,        // DequantizeLinear, axis 1: [rows, cols]; no zero point means 0
  kStandardAcross,  // DequantizeLinear, axis 0: [cols, rows]; no zero point means 0
};

// REQUIRES of users: the tensors have the sizes that layout, rows, cols, block and bits ask for.
struct StoredBlocks {
  BlockLayout layout = BlockLayout::kPadded;
  int bits = 4;  // 2, 4 or 8
  std::int64_t rows = 0, cols = 0, block = 0;
  Tensor codes, scales, zeros;  // zeros undefined: none

  std::int64_t blocks() const { return (cols + block - 1) / block; }
  bool standard() const { return layout == BlockLayout::kStandard || layout == BlockLayout::kStandardAcross; }
  std::int64_t bytes() const;
};

// The same weight in another layout; the tensors are deferred. Between kStandard and kStandard nothing changes.
StoredBlocks convert_blocks(const StoredBlocks& from, BlockLayout to);

}  // namespace onnxfold
