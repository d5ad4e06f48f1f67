// Which low-bit kernels of ONNX Runtime are fast for what (measured with 1.32: docs/quantize.md).
#pragma once

#include <cstdint>
#include <string>

#include "passes/quantize/weight_target.h"

namespace onnxfold {

// Rows of the left operand of MatMul or Gemm that are there whatever the input: the product of its known dimensions but
// the last (of its second dimension, for transA). 1 when nothing is known.
std::int64_t certain_rows(const Node& product);

// accuracy_level of a MatMulNBits in the place of `product`: `asked`, or for kAutomaticLevel the faster one. From 32
// rows on, 4 bits are faster without rounding the activations (0); all else is faster with it (4).
std::int64_t accuracy_level_for(const Node& product, int bits, std::int64_t asked);

// Why ONNX Runtime has no fast kernel for the target; empty: it has one.
std::string slowness(const WeightTarget& target, const WeightOptions& options);

}  // namespace onnxfold
