#include "passes/inline_graph.h"

#include "passes/rewrite.h"

namespace onnxfold {
Attribute cloned(const Attribute& attribute, Graph& target, ValueMap& map) {
  if (const auto* graph = std::get_if<std::unique_ptr<Graph>>(&attribute.value)) {
    Attribute copy(attribute.name, (*graph)->clone(&target, map));
    copy.doc_string = attribute.doc_string;
    return copy;
  }
  if (const auto* graphs = std::get_if<std::vector<std::unique_ptr<Graph>>>(&attribute.value)) {
    std::vector<std::unique_ptr<Graph>> copies;
    for (const auto& graph : *graphs) copies.push_back(graph->clone(&target, map));
    return Attribute(attribute.name, std::move(copies));
  }
  return attribute.copy();
}

namespace {

void copy_node(Graph& target, const Node& node, Node& before, ValueMap& map) {
  NodeSpec spec;
  spec.op_type = node.op_type();
  spec.domain = node.domain();
  spec.name = node.name;
  for (Value* input : node.inputs()) {
    const auto found = map.find(input);
    spec.inputs.push_back(found == map.end() ? input : found->second);
  }
  for (const Value* output : node.outputs()) {
    OutputSpec made;
    made.omitted = output == nullptr;
    if (output != nullptr) {
      made.name = output->name();
      made.type = output->type();
    }
    spec.outputs.push_back(std::move(made));
  }
  for (const Attribute& attribute : node.attributes()) spec.attributes.push_back(cloned(attribute, target, map));
  Node* copy = target.insert(std::move(spec), &before);
  copy->overload = node.overload;
  copy->doc_string = node.doc_string;
  copy->metadata = node.metadata;
  copy->opaque = node.opaque;
  for (std::size_t i = 0; i < node.outputs().size(); ++i) {
    if (node.output(i) != nullptr) map[node.output(i)] = copy->output(i);
  }
}

}  // namespace

std::vector<Value*> inline_graph(Graph& target, const Graph& body, Node& before, ValueMap& map) {
  for (Value* value : body.initializers()) {
    if (!map.contains(value)) map[value] = add_constant(target, *value->initializer(), value->name());
  }
  for (const Node* node : body.nodes()) {
    const bool known = node->is("Constant") && map.contains(node->output());
    if (!known) copy_node(target, *node, before, map);
  }
  std::vector<Value*> results;
  for (Value* output : body.outputs()) {
    const auto found = map.find(output);
    results.push_back(found == map.end() ? output : found->second);
  }
  return results;
}

void replace_by(Graph& graph, Node& node, const std::vector<Value*>& results) {
  const std::vector<Value*> outputs = node.outputs();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i] == nullptr || outputs[i]->uses().empty() || i >= results.size() || results[i] == nullptr) continue;
    Value* result = results[i];
    const bool direct = !outputs[i]->is_graph_output() ||
                        (result->graph() == &graph && result->producer() != nullptr && !result->is_graph_output());
    if (!direct || !graph.can_replace(*outputs[i], *result)) {
      result = graph
                   .insert({.op_type = "Identity",
                            .inputs = {result},
                            .outputs = {{outputs[i]->name(), outputs[i]->type()}},
                            .attributes = {},
                            .domain = "",
                            .name = ""},
                           &node)
                   ->output();
    }
    const Type type = outputs[i]->is_graph_output() ? refined_type(outputs[i]->type(), result->type())
                                                    : refined_type(result->type(), outputs[i]->type());
    graph.replace_all_uses(*outputs[i], *result);
    if (!result->is_graph_input() && result->graph() == &graph) result->set_type(type);
  }
  erase_with_dead_inputs(graph, node);
}

}  // namespace onnxfold
