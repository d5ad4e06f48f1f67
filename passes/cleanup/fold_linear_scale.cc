// Mul(L(x, W, b), s) => L(x, W s, b s)   L: Conv, ConvTranspose, Gemm, MatMul; Div(., s) => W / s
//
// s is constant, one number or one per output channel; the result and the weight of L have no other reader; the bias,
// if any, is constant. Computed in double and rounded once. Not for s with zeros under Div. Rounding.
#include <cmath>

#include "passes/cleanup/linear_weights.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

class FoldLinearScale final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (node->erased() || (!node->is("Mul") && !node->is("Div")) || node->opset() < 7) continue;
      OF_ASSIGN(const bool folded, fold(graph, *node, context));
      changed = changed || folded;
    }
    return changed;
  }

 private:
  static Result<bool> fold(Graph& graph, Node& node, PassContext& context) {
    const bool divides = node.is("Div");
    std::size_t operand = 0;
    if (!divides && constant(node.input(0)) != nullptr) operand = 1;
    const Value* scale_value = node.input(1 - operand);
    if (constant(scale_value) == nullptr) return false;
    std::string why;
    const auto linear = channel_linear(node.input(operand), why);
    if (!linear) {
      if (!why.empty()) context.skipped(node.label(), why);
      return false;
    }
    auto scale = per_channel(scale_value, *linear);
    if (!scale) {
      context.skipped(node.label(), "the factor is not one number per output channel");
      return false;
    }
    for (double& factor : *scale) {
      if (divides) factor = 1.0 / factor;
      if (!std::isfinite(factor)) return false;
    }
    OF_ASSIGN(const Tensor weight, scaled_weight(*linear, *scale));
    std::optional<Tensor> new_bias;
    if (linear->has_bias_slot && linear->node->input(2) != nullptr) {
      OF_ASSIGN(std::vector<double> bias, bias_of(*linear));
      for (std::size_t c = 0; c < bias.size(); ++c) bias[c] *= (*scale)[c];
      OF_ASSIGN(new_bias, bias_tensor(*linear, bias));
    }
    Value& result = *linear->node->output();
    set_weight_and_bias(graph, *linear, weight, new_bias);
    return replace_and_erase(graph, node, result);
  }
};

}  // namespace

std::unique_ptr<Pass> make_fold_linear_scale(const PassOptions&) { return std::make_unique<FoldLinearScale>(); }

}  // namespace onnxfold
