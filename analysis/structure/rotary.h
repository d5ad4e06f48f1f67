// Rotary: position embedding by rotation of pairs of elements, x * cos + rotate(x) * sin (Su et al., RoFormer, 2021).
//
// Recognised: RotaryEmbedding (ai.onnx 23 and com.microsoft), and every chain of Mul with a table, Add, Sub, Neg,
// Slice, Split, Concat, Reshape and Transpose that begins and ends with the same shape: halves rotated or neighbours,
// the whole head or a part of it. A table is a constant or a function of positions that ends in Cos or Sin.
#pragma once

#include <optional>

#include "analysis/structure/region.h"

namespace onnxfold {

struct Rotary {
  Value* source = nullptr;  // the same shape as the result
  std::vector<Value*> tables;
  bool fused = false;
  std::vector<Node*> nodes;
};

std::optional<Rotary> rotary_making(Value* value);

}  // namespace onnxfold
