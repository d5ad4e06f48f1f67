// Recognises block-quantized weights in a graph: MatMulNBits, GatherBlockQuantized, blocked DequantizeLinear.
#pragma once

#include <string>

#include "ir/graph.h"
#include "passes/quantize/block_layout.h"

namespace onnxfold {

// What a node turned out to be: a weight that can change its form, or why not.
struct BlockMatch {
  std::string why;  // empty: convertible
  StoredBlocks weight;
  std::int64_t axis = 0;     // of DequantizeLinear when the tensors are taken as they are
  bool as_is = false;        // int4 tables: already in the standard packing
  Node* consumer = nullptr;  // of a DequantizeLinear
};

BlockMatch match_product(Node& node);   // REQUIRES: com.microsoft MatMulNBits
BlockMatch match_table(Node& node);     // REQUIRES: com.microsoft GatherBlockQuantized
BlockMatch match_standard(Node& node);  // REQUIRES: DequantizeLinear

}  // namespace onnxfold
