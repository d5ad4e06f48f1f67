// Add(Linear(x, W, b), Mul(MatMul(MatMul(x, A), B), s)) => Linear(x, W + s A B, b)
//
// Low-rank adapters (LoRA, arXiv 2106.09685) as peft and others export them: two or more Linears in a row beside one
// Linear of the same value, with factors anywhere in the branch (VeRA's vectors too), Dropout in inference, several
// adapters, the base as MatMul and Add or as Gemm. The base does not become larger, so that every branch is saved.
// Inner values have no other reader; the base is floating point (not quantized). Computed in double, rounded once.
// Rounding.
#include "passes/pass.h"
#include "passes/reparam/linear/linear_sum.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kAnyLength = 1 << 20;

class FoldLora final : public Pass {
 public:
  explicit FoldLora(const PassOptions& options) : max_growth_(options.integer("max-growth")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    if (graph.opset() < 11) return false;
    for (Node* node : graph.nodes()) {
      OF_ASSIGN(const bool folded, fold(graph, *node, context));
      changed = changed || folded;
    }
    return changed;
  }

 private:
  Result<bool> fold(Graph& graph, Node& node, PassContext& context) const {
    const auto sum = node.erased() ? std::nullopt : linear_sum(node);
    if (!sum) return false;
    const std::string label = node.label();
    std::string why;
    const auto group = best_group(*sum, kAnyLength, max_growth_, why);
    if (!group || group->chained == 0) {
      if (!why.empty()) context.skipped(label, why);
      return false;
    }
    OF_ASSIGN(const bool folded, merge_group(graph, *sum, *group));
    if (!folded) context.skipped(label, "a merged number is out of the range of its type");
    return folded;
  }

  std::int64_t max_growth_;
};

}  // namespace

std::unique_ptr<Pass> make_fold_lora(const PassOptions& options) { return std::make_unique<FoldLora>(options); }

}  // namespace onnxfold
