#include "passes/rewrite.h"

#include <algorithm>
#include <cctype>

namespace onnxfold {
namespace {

bool dead(const Node& node) {
  for (const Value* output : node.outputs()) {
    if (output != nullptr && !output->uses().empty()) return false;
  }
  return true;
}

// The stricter of two descriptions of one dimension; `preferred` wins where both say something.
Dim refined(const Dim& preferred, const Dim& other) {
  if (preferred.value || (!preferred.symbol.empty() && !other.known())) return preferred;
  return other.value || !other.symbol.empty() ? other : preferred;
}

}  // namespace

Type refined_type(const Type& preferred, const Type& other) {
  if (!preferred.is_tensor() || !other.is_tensor()) return preferred.kind == Type::Kind::kNone ? other : preferred;
  Type result = preferred;
  if (result.dtype == DType::kUndefined) result.dtype = other.dtype;
  if (!preferred.shape) {
    result.shape = other.shape;
  } else if (other.shape && other.shape->size() == preferred.shape->size()) {
    for (std::size_t i = 0; i < result.shape->size(); ++i) {
      (*result.shape)[i] = refined((*preferred.shape)[i], (*other.shape)[i]);
    }
  }
  return result;
}

void erase_with_dead_inputs(Graph& graph, Node& node) {
  std::vector<Node*> doomed{&node};
  while (!doomed.empty()) {
    Node* next = doomed.back();
    doomed.pop_back();
    if (next->erased()) continue;
    const std::vector<Value*> inputs = next->inputs();
    graph.erase(*next);
    for (Value* input : inputs) {
      if (input == nullptr || input->erased() || input->graph() != &graph || !input->uses().empty()) continue;
      if (Node* producer = input->producer()) {
        if (dead(*producer)) doomed.push_back(producer);
      } else if (!input->is_graph_input()) {
        graph.erase(*input);
      }
    }
  }
}

void erase_if_unused(Graph& graph, Value& value) {
  if (value.erased() || value.graph() != &graph || value.is_graph_input() || !value.uses().empty()) return;
  if (value.producer() == nullptr) {
    graph.erase(value);
  } else if (dead(*value.producer())) {
    erase_with_dead_inputs(graph, *value.producer());
  }
}

Value* add_constant(Graph& graph, Tensor tensor, std::string_view hint) {
  return graph.add_initializer(std::string(hint), std::move(tensor));
}

namespace {

// Was `name` asked for under `wanted` and made unique?
bool is_variant_of(const std::string& name, const std::string& wanted) {
  return name.size() > wanted.size() + 1 && name.starts_with(wanted) && name[wanted.size()] == '_' &&
         std::all_of(name.begin() + static_cast<std::ptrdiff_t>(wanted.size()) + 1, name.end(),
                     [](unsigned char c) { return std::isdigit(c) != 0; });
}

}  // namespace

Value* insert_transpose(Graph& graph, const Node& before, Value& matrix) {
  const Dims dims = *matrix.static_dims();
  NodeSpec spec{
      "Transpose", {&matrix}, {{matrix.name() + "_transposed", Type::tensor(matrix.dtype(), {dims[1], dims[0]})}},
      {},          "",        ""};
  spec.attributes.emplace_back("perm", std::vector<std::int64_t>{1, 0});
  return graph.insert(std::move(spec), &before)->output();
}

bool replace_and_erase(Graph& graph, Node& node, Value& replacement) {
  Value& output = *node.output(0);
  const std::string freed = output.name();
  // A subgraph must make its outputs itself: an outer value, an own input or an initializer needs an Identity there.
  const bool direct = !output.is_graph_output() || (replacement.graph() == &graph && replacement.producer() != nullptr);
  if (direct && graph.can_replace(output, replacement)) {
    const Type type = output.is_graph_output() ? refined_type(output.type(), replacement.type())
                                               : refined_type(replacement.type(), output.type());
    graph.replace_all_uses(output, replacement);
    if (!replacement.is_graph_input()) replacement.set_type(type);
    erase_with_dead_inputs(graph, node);
    // A value that was made in the place of another keeps its name: taps, reports and --bisect find it again.
    if (is_variant_of(replacement.name(), freed)) graph.rename(replacement, freed);
    return true;
  }
  if (node.is("Identity")) return false;
  Node* identity = graph.insert({.op_type = "Identity",
                                 .inputs = {&replacement},
                                 .outputs = {{output.name(), output.type()}},
                                 .attributes = {},
                                 .domain = "",
                                 .name = node.name},
                                &node);
  graph.replace_all_uses(output, *identity->output());
  erase_with_dead_inputs(graph, node);
  return true;
}

}  // namespace onnxfold
