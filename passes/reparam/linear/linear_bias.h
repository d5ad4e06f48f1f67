// The bias of a Linear alone: its weight is not looked at.
#pragma once

#include "passes/reparam/linear/linear_numbers.h"

namespace onnxfold {

// The Add goes, or Gemm's third input. REQUIRES: linear.bias is not null.
void remove_bias(Graph& graph, const Linear& linear);
// Can `linear` take a (new) bias without another node?
bool has_place_for_bias(const Linear& linear);
// Value: false, and nothing changed, when a number does not fit the type. REQUIRES: has_place_for_bias(linear).
Result<bool> put_bias(Graph& graph, const Linear& linear, const Numbers& bias);

}  // namespace onnxfold
