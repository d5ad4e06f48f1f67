// f(x) with every output unused => nothing; an initializer without use => nothing; an uncalled function => nothing.
//
// Exact. Graph inputs stay: they are the model's interface. Unread outputs of a node that is otherwise needed stay too.
#include <set>
#include <tuple>

#include "ir/dead_nodes.h"
#include "passes/pass.h"

namespace onnxfold {
namespace {

using FunctionKey = std::tuple<std::string, std::string, std::string>;

void collect_calls(const Graph& graph, std::set<FunctionKey>& calls) {
  for (const Node* node : graph.nodes()) {
    calls.insert({node->domain(), node->op_type(), node->overload});
    for (const Graph* inner : node->subgraphs()) collect_calls(*inner, calls);
  }
}

// Functions reachable from the main graph, through other functions too.
bool remove_unused_functions(Model& model) {
  if (model.functions.empty()) return false;
  std::set<FunctionKey> reached;
  collect_calls(model.graph(), reached);
  std::vector<bool> visited(model.functions.size(), false);
  for (bool grown = true; grown;) {
    grown = false;
    for (std::size_t i = 0; i < model.functions.size(); ++i) {
      const Function& function = *model.functions[i];
      if (visited[i] || !reached.contains({function.domain, function.name, function.overload})) continue;
      collect_calls(*function.body, reached);
      visited[i] = grown = true;
    }
  }
  const std::size_t removed = std::erase_if(model.functions, [&](const std::unique_ptr<Function>& function) {
    return !reached.contains({function->domain, function->name, function->overload});
  });
  return removed > 0;
}

class RemoveDeadNodes final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = erase_dead_nodes(graph);
    if (&graph == &context.model().graph() && remove_unused_functions(context.model())) changed = true;
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_remove_dead_nodes(const PassOptions&) { return std::make_unique<RemoveDeadNodes>(); }

}  // namespace onnxfold
