#include "passes/depth/remove_unit.h"

#include <set>

#include "ir/dead_nodes.h"

namespace onnxfold {

Result<RemovedInterface> remove_unit(Graph& graph, const StreamUnit& unit) {
  RemovedInterface removed;
  const std::set<const Node*> nodes(unit.nodes.begin(), unit.nodes.end());
  std::set<const Value*> read_before;
  for (const Value* input : graph.inputs()) {
    if (!input->uses().empty()) read_before.insert(input);
  }
  OF_TRY(bypass(graph, unit));
  for (std::size_t i = graph.outputs().size(); i-- > 0;) {
    const Value* output = graph.outputs()[i];
    if (output->producer() == nullptr || nodes.count(output->producer()) == 0) continue;
    removed.outputs.insert(removed.outputs.begin(), output->name());
    graph.remove_output(i);
  }
  erase_dead_nodes(graph);
  for (std::size_t i = graph.inputs().size(); i-- > 0;) {
    const Value* input = graph.inputs()[i];
    if (!input->uses().empty() || read_before.count(input) == 0) continue;
    removed.inputs.insert(removed.inputs.begin(), input->name());
    graph.remove_input(i);
  }
  return removed;
}

std::int64_t constant_bytes(const Graph& graph) {
  std::int64_t bytes = 0;
  for (const Value* value : graph.initializers()) bytes += value->initializer()->nbytes();
  return bytes;
}

}  // namespace onnxfold
