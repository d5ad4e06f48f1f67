// Which low-bit kernels of ONNX Runtime are fast for what (measured with 1.32: docs/quantize.md).
#pragma once

#include <cstdint>
#include <string>

#include "passes/quantize/weight_target.h"

namespace onnxfold {

// Does the model keep keys and values of earlier positions between runs: an output is an input with positions behind it
// (Concat, a scatter) or comes, with one, from an attention operator?
bool decodes_in_steps(const Graph& graph);

// How many rows MatMul or Gemm multiplies at a time, as far as the model says: known dimensions count as they are, an
// open first one (samples) as 1, other open ones (positions) as 64, or as 1 where the model decodes in steps. Rows that
// were flattened count as before. Where no shape is known, the most that another product of a weight multiplies.
std::int64_t expected_rows(const Node& product);

// accuracy_level of a MatMulNBits in the place of `product`: `asked`, or for kAutomaticLevel the faster one. Many rows
// (32, or 8 of less than 256 columns) are faster in 4 bits without rounding the activations (0); all else is faster
// with it (4).
std::int64_t accuracy_level_for(const Node& product, int bits, std::int64_t asked);

// Why ONNX Runtime has no fast kernel for the target; empty: it has one.
std::string slowness(const WeightTarget& target, const WeightOptions& options);

}  // namespace onnxfold
