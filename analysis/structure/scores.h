// From a Softmax to the product of queries and keys behind it, and to the product with the values after it. Internal to
// analysis/structure.
#pragma once

#include "analysis/structure/projection.h"

namespace onnxfold {

struct Scores {
  Node* product = nullptr;      // MatMul, FusedMatMul or Einsum of two computed values
  bool key_transposed = false;  // the right operand is k as [.., positions, width]: the operator transposes it
  double scale = 1;
  bool scale_known = true;
  double softcap = 0;
  std::vector<Value*> masks;
  double mask_value = 0;
  std::vector<Node*> nodes;  // product to softmax, both excluded
  std::string problem;       // why there is no product
};

Scores trace_scores(Value* softmax_input, StructureContext& context);

struct Context {
  Node* product = nullptr;  // probabilities times v
  Value* values = nullptr;  // its v operand
  std::vector<Node*> nodes;
};

// Forward from the probabilities; product is null when they do not reach one as its left operand.
Context trace_context(Value* probabilities);

// Did somebody build this mask from a triangle of positions: Trilu, a comparison of positions that are counted up, or a
// constant that hides all later positions.
bool is_triangular(const Value* mask);

}  // namespace onnxfold
