// Deep copies of graphs; tensors are shared.
#include "ir/graph.h"

namespace onnxfold {
namespace {

Attribute clone_attribute(const Attribute& attribute, Graph* new_parent,
                          std::unordered_map<const Value*, Value*>& map) {
  if (const auto* graph = std::get_if<std::unique_ptr<Graph>>(&attribute.value)) {
    Attribute copy(attribute.name, (*graph)->clone(new_parent, map));
    copy.doc_string = attribute.doc_string;
    return copy;
  }
  if (const auto* graphs = std::get_if<std::vector<std::unique_ptr<Graph>>>(&attribute.value)) {
    std::vector<std::unique_ptr<Graph>> copies;
    for (const auto& graph : *graphs) copies.push_back(graph->clone(new_parent, map));
    Attribute copy(attribute.name, std::move(copies));
    copy.doc_string = attribute.doc_string;
    return copy;
  }
  return attribute.copy();
}

}  // namespace

std::unique_ptr<Graph> Graph::clone(Graph* new_parent, std::unordered_map<const Value*, Value*>& map) const {
  auto copy = std::make_unique<Graph>(new_parent);
  copy->name = name;
  copy->doc_string = doc_string;
  copy->metadata = metadata;
  for (const auto& value : values_) {
    Value* made = copy->new_value(value->name_, value->type_);
    made->is_input_ = value->is_input_;
    made->initializer_ = value->initializer_;
    if (value->sparse_) made->sparse_ = std::make_unique<SparseTensor>(*value->sparse_);
    made->doc_string = value->doc_string;
    made->metadata = value->metadata;
    made->quantization = value->quantization;
    map[value.get()] = made;
  }
  const auto mapped = [&map](Value* value) -> Value* {
    const auto found = map.find(value);
    return found == map.end() ? value : found->second;
  };
  for (const Value* input : inputs_) copy->inputs_.push_back(map.at(input));
  for (const auto& node : nodes_) {
    NodeSpec spec{node->op_type_, {}, {}, {}, node->domain_, node->name};
    for (Value* input : node->inputs_) spec.inputs.push_back(mapped(input));
    for (const Attribute& attribute : node->attributes_) {
      spec.attributes.push_back(clone_attribute(attribute, copy.get(), map));
    }
    std::vector<Value*> outputs;
    for (Value* output : node->outputs_) outputs.push_back(mapped(output));
    Node* made = *copy->insert_exact(std::move(spec), std::move(outputs));
    made->overload = node->overload;
    made->doc_string = node->doc_string;
    made->metadata = node->metadata;
    made->opaque = node->opaque;
  }
  for (Value* output : outputs_) copy->add_output(*mapped(output));
  return copy;
}

}  // namespace onnxfold
