// Add(L(x, W, b), c) => L(x, W, b + c)   L: Conv, ConvTranspose, Gemm; Sub(., c) => b - c
//
// c is constant, one number or one per output channel; the result of L has no other reader; the bias, if any, is
// constant. The sum of two biases is made in double and rounded once. Rounding.
#include <cmath>

#include "passes/cleanup/linear_weights.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

class FoldLinearBias final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (node->erased() || (!node->is("Add") && !node->is("Sub")) || node->opset() < 7) continue;
      OF_ASSIGN(const bool folded, fold(graph, *node, context));
      changed = changed || folded;
    }
    return changed;
  }

 private:
  static Result<bool> fold(Graph& graph, Node& node, PassContext& context) {
    const bool subtracts = node.is("Sub");
    std::size_t operand = 0;
    if (!subtracts && constant(node.input(0)) != nullptr) operand = 1;
    const Value* addend = node.input(1 - operand);
    if (constant(addend) == nullptr) return false;
    std::string why;
    const auto linear = channel_linear(node.input(operand), why);
    if (!linear || !linear->has_bias_slot) {
      if (!why.empty()) context.skipped(node.label(), why);
      return false;
    }
    const auto given = per_channel(addend, *linear);
    if (!given) {
      context.skipped(node.label(), "the addend is not one number per output channel");
      return false;
    }
    OF_ASSIGN(std::vector<double> bias, bias_of(*linear));
    for (std::size_t c = 0; c < bias.size(); ++c) bias[c] += subtracts ? -(*given)[c] : (*given)[c];
    OF_ASSIGN(Tensor new_bias, bias_tensor(*linear, bias));
    Value& result = *linear->node->output();
    set_weight_and_bias(graph, *linear, Tensor(), std::move(new_bias));
    return replace_and_erase(graph, node, result);
  }
};

}  // namespace

std::unique_ptr<Pass> make_fold_linear_bias(const PassOptions&) { return std::make_unique<FoldLinearBias>(); }

}  // namespace onnxfold
