#include "ir/instantiate.h"

#include <fmt/format.h>

#include <algorithm>

namespace onnxfold {

const Function* find_function(const Model& model, const Node& node) {
  for (const auto& function : model.functions) {
    const bool same_domain =
        function->domain == node.domain() || (function->domain == "ai.onnx" && node.domain().empty());
    if (same_domain && function->name == node.op_type() && function->overload == node.overload) {
      return function.get();
    }
  }
  return nullptr;
}

namespace {

const Attribute* find_attribute(const std::vector<Attribute>& attributes, const std::string& name) {
  const auto found = std::find_if(attributes.begin(), attributes.end(),
                                  [&](const Attribute& attribute) { return attribute.name == name; });
  return found == attributes.end() ? nullptr : &*found;
}

AttributeValue copy_value(const Attribute& source, Graph* parent) {
  std::unordered_map<const Value*, Value*> map;
  if (const auto* graph = std::get_if<std::unique_ptr<Graph>>(&source.value)) return (*graph)->clone(parent, map);
  if (const auto* graphs = std::get_if<std::vector<std::unique_ptr<Graph>>>(&source.value)) {
    std::vector<std::unique_ptr<Graph>> copies;
    for (const auto& graph : *graphs) copies.push_back(graph->clone(parent, map));
    return copies;
  }
  return std::move(source.copy().value);
}

// Replaces `node` by one whose references are resolved. A new node, because the tensor of a Constant node is fixed when
// it is inserted.
Node* resolve(Graph& graph, Node& node, const Function& function, const Node& call) {
  NodeSpec spec{node.op_type(), {}, {}, {}, node.domain(), node.name};
  spec.inputs = node.inputs();
  for (const Attribute& attribute : node.attributes()) {
    const auto* reference = std::get_if<AttributeReference>(&attribute.value);
    const Attribute* source = &attribute;
    if (reference != nullptr) {
      source = call.attribute(reference->name);
      if (source == nullptr) source = find_attribute(function.defaults, reference->name);
      if (source == nullptr) continue;  // an optional attribute that nobody gave
    }
    spec.attributes.emplace_back(attribute.name, copy_value(*source, &graph));
    spec.attributes.back().doc_string = attribute.doc_string;
  }
  for (const Value* output : node.outputs()) {
    OutputSpec slot;
    slot.omitted = output == nullptr;
    if (output != nullptr) slot = OutputSpec{output->name(), output->type(), false};
    spec.outputs.push_back(std::move(slot));
  }
  Node* made = graph.insert(std::move(spec), &node);
  made->overload = node.overload;
  made->metadata = node.metadata;
  for (std::size_t i = 0; i < node.outputs().size(); ++i) {
    if (node.output(i) != nullptr) graph.replace_all_uses(*node.output(i), *made->output(i));
  }
  graph.erase(node);
  return made;
}

bool has_reference(const Node& node) {
  return std::any_of(node.attributes().begin(), node.attributes().end(), [](const Attribute& attribute) {
    return std::holds_alternative<AttributeReference>(attribute.value);
  });
}

void resolve_all(Graph& graph, const Function& function, const Node& call) {
  for (Node* node : graph.nodes()) {
    if (has_reference(*node)) node = resolve(graph, *node, function, call);
    for (Graph* inner : node->subgraphs()) resolve_all(*inner, function, call);
  }
}

}  // namespace

Result<std::unique_ptr<Graph>> instantiate(const Function& function, const Node& call) {
  if (call.inputs().size() > function.body->inputs().size() ||
      call.outputs().size() > function.body->outputs().size()) {
    return fail(Code::kCorrupt,
                fmt::format("node '{}' calls function {}.{} with {} inputs and {} outputs; it has {} and {}",
                            call.label(), function.domain, function.name, call.inputs().size(), call.outputs().size(),
                            function.body->inputs().size(), function.body->outputs().size()));
  }
  std::unordered_map<const Value*, Value*> map;
  std::unique_ptr<Graph> graph = function.body->clone(nullptr, map);
  graph->adopt_opsets(*function.body);
  resolve_all(*graph, function, call);
  graph->purge();
  return graph;
}

}  // namespace onnxfold
