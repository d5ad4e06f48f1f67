#include "ir/dead_nodes.h"

#include <algorithm>

namespace onnxfold {
namespace {

bool unused(const Node& node) {
  return std::all_of(node.outputs().begin(), node.outputs().end(),
                     [](const Value* output) { return output == nullptr || output->uses().empty(); });
}

}  // namespace

bool erase_dead_nodes(Graph& graph) {
  bool changed = false;
  const std::vector<Node*> nodes = graph.nodes();
  for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
    if (!unused(**it)) continue;
    graph.erase(**it);
    changed = true;
  }
  for (Value* value : graph.initializers()) {
    if (!value->uses().empty() || value->is_graph_input()) continue;
    graph.erase(*value);
    changed = true;
  }
  return changed;
}

}  // namespace onnxfold
