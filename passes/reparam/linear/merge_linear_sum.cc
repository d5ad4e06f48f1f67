// Add(Linear(x, W1, b1), Linear(x, W2, b2), x, ..) => Linear(x, W1 + W2 + I, b1 + b2)
//
// Linears of one value whose results meet in a tree of Add, Sub and Sum become one; constant factors and addends along
// the last axis between a Linear and the sum are taken in, and so is the value itself (an identity) where rows are as
// wide on both sides. Results that something else reads stay, other summands are added to the one Linear. Needs no more
// multiply-adds than before and fewer nodes. In double, rounded once. M4 of the notes. Rounding.
#include "passes/pass.h"
#include "passes/reparam/linear/linear_sum.h"

namespace onnxfold {
namespace {

class MergeLinearSum final : public Pass {
 public:
  explicit MergeLinearSum(const PassOptions& options) : max_growth_(options.integer("max-growth")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    if (graph.opset() < 11) return false;
    for (Node* node : graph.nodes()) {
      OF_ASSIGN(const bool merged, merge(graph, *node, context));
      changed = changed || merged;
    }
    return changed;
  }

 private:
  Result<bool> merge(Graph& graph, Node& node, PassContext& context) const {
    if (node.erased()) return false;
    const std::string label = node.label();
    const auto sum = linear_sum(node);
    if (!sum) return false;
    std::string why;
    const auto group = best_group(*sum, 1, max_growth_, why);
    if (!group) {
      if (!why.empty()) context.skipped(label, why);
      return false;
    }
    Value* output = node.output();
    const std::string name = output->name();
    OF_ASSIGN(const bool merged, merge_group(graph, *sum, *group));
    if (!merged) {
      context.skipped(label, "a merged number is out of the range of its type");
      return false;
    }
    // Other summands may form a group of their own.
    Value* now = graph.find(name);
    if (now != nullptr && now->producer() != nullptr) {
      OF_TRY(merge(graph, *now->producer(), context));
    }
    return true;
  }

  std::int64_t max_growth_;
};

}  // namespace

std::unique_ptr<Pass> make_merge_linear_sum(const PassOptions& options) {
  return std::make_unique<MergeLinearSum>(options);
}

}  // namespace onnxfold
