// If(constant){then}{else} => the body of the branch that is taken
//
// Exact. Captured values stand for themselves.
#include "passes/inline_graph.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

class RemoveConstantIf final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* node : graph.nodes_of("If")) {
      const Tensor* condition = constant(node->input(0));
      if (condition == nullptr || condition->size() != 1 || condition->dtype() != DType::kBool) continue;
      OF_ASSIGN(const std::vector<std::int64_t> flag, to_int64s(*condition));
      const Graph* branch = node->attr_graph(flag[0] != 0 ? "then_branch" : "else_branch");
      if (branch == nullptr || branch->outputs().size() != node->outputs().size() || !branch->inputs().empty())
        continue;
      if (has_sparse(*branch)) continue;
      ValueMap map;
      const std::vector<Value*> results = inline_graph(graph, *branch, *node, map);
      replace_by(graph, *node, results);
      changed = true;
    }
    return changed;
  }

 private:
  static bool has_sparse(const Graph& graph) {
    for (const Value* value : graph.initializers()) {
      if (value->initializer() == nullptr) return true;
    }
    return false;
  }
};

}  // namespace

std::unique_ptr<Pass> make_remove_constant_if(const PassOptions&) { return std::make_unique<RemoveConstantIf>(); }

}  // namespace onnxfold
