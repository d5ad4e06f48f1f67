// ActivationMatch: an element-wise nonlinearity, as one operator or as the chain that exporters write.
//
// Chains recognised: exact GELU x * 0.5 * (1 + Erf(x / sqrt 2)) in every factor order, tanh GELU
// 0.5 x (1 + Tanh(sqrt(2/pi) (x + 0.044715 x^3))), quick GELU x * Sigmoid(1.702 x), SiLU x * Sigmoid(x), Mish,
// HardSwish, Softplus Log(1 + Exp(x)).
#pragma once

#include <optional>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

struct ActivationMatch {
  enum class Kind {
    kRelu,
    kGelu,
    kGeluTanh,
    kQuickGelu,
    kSilu,
    kMish,
    kHardSwish,
    kSigmoid,
    kTanh,
    kElu,
    kLeakyRelu,
    kSquaredRelu,
    kSoftplus
  };

  Kind kind = Kind::kRelu;
  Value* input = nullptr;
  Value* output = nullptr;
  bool fused = false;  // one operator
  // How far a chain's constants are from the formula's, as the largest difference of the result relative to 1 + |y|;
  // float32 constants are read as the numbers they were rounded from (ir/intended_number.h). 1.702 is a float32.
  double error = 0;
  std::vector<Node*> nodes;  // in topological order
};

std::string_view name(ActivationMatch::Kind kind);
// Of operators that carry an activation by its operator's name (FusedGemm, FusedConv): those without parameters.
std::optional<ActivationMatch::Kind> activation_named(std::string_view op_type);
// The activation that makes `value`, or none. Inner values must have no other readers.
std::optional<ActivationMatch> activation_making(const Value* value);
// All of a graph that are not part of a larger one, in topological order of their last nodes.
std::vector<ActivationMatch> find_activations(const Graph& graph);

}  // namespace onnxfold
