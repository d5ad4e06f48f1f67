// The initializers that stand for a block-quantized weight, and the standard nodes that decode compact scales.
#pragma once

#include <memory>

#include "passes/quantize/blockwise.h"
#include "passes/quantize/weight_target.h"

namespace onnxfold {

// What the operators read. `codes` is uint8 [rows, blocks, bytes] for MatMulNBits, [rows, bytes] for tables, or has the
// weight's shape in the standard form.
struct WeightParts {
  Value* codes = nullptr;
  Value* scales = nullptr;
  Value* zeros = nullptr;        // null: symmetric
  Value* table_codes = nullptr;  // a tied weight: the same codes as GatherBlockQuantized wants them
  std::int64_t bytes = 0;
};

// Adds the parts of `target` to the weight's graph, in front of all its nodes. `tied`: a product and a Gather read the
// weight, so that codes are stored once, for both. The tensors are deferred: `lazy` is asked when they are written.
WeightParts add_weight_parts(const WeightTarget& target, const WeightOptions& options, std::shared_ptr<LazyBlocks> lazy,
                             bool tied);

// How many tensors of a format are made from its codes.
int part_count(const BlockFormat& format);

}  // namespace onnxfold
