// Norm: LayerNorm and RMSNorm over the last axis, as one operator or as the chain that exporters write.
//
// Layer: y = (x - mean) / sqrt(var + eps) * gain + bias;  Rms: y = x / sqrt(mean(x^2) + eps) * gain.
// Recognised operators: LayerNormalization (17), RMSNormalization (23), and of ONNX Runtime
// SimplifiedLayerNormalization, SkipLayerNormalization and SkipSimplifiedLayerNormalization (input = the sum of both
// inputs and the bias). Recognised chains: ReduceMean / Sub / Pow or Mul / ReduceMean / Add eps / Sqrt / Div (or
// Reciprocal and Mul, or Pow -0.5), with Cast to float32 and back around them, gain and bias as Mul and Add in either
// operand order.
#pragma once

#include <optional>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

struct Norm {
  enum class Kind { kLayer, kRms } kind = Kind::kLayer;
  Value* input = nullptr;     // of SkipLayerNormalization: its first input
  Value* skip = nullptr;      // second addend of SkipLayerNormalization, else null
  Value* sum = nullptr;       // SkipLayerNormalization's sum output when somebody may read it, else null
  Value* sum_bias = nullptr;  // SkipLayerNormalization's third addend, or null
  Value* output = nullptr;    // after gain and bias
  Value* gain = nullptr;      // constant of `width` elements, or null
  Value* bias = nullptr;      // constant of `width` elements, or null
  double epsilon = 0;
  std::int64_t width = 0;    // 0 when the type does not tell
  bool fused = false;        // one operator
  std::vector<Node*> nodes;  // all of them, in topological order

  Node* last() const { return nodes.back(); }
};

// The Norm that begins at `node`: the single operator, or the chain whose first ReduceMean (of x, or of x^2) this is.
std::optional<Norm> norm_at(const Node& node);
// All of a graph, in topological order.
std::vector<Norm> find_norms(const Graph& graph);

}  // namespace onnxfold
