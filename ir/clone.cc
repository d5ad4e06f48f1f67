// Deep copies of graphs (tensors are shared), and exchanging the contents of two.
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

void Graph::swap_contents(Graph& other) {
  std::swap(name, other.name);
  std::swap(doc_string, other.doc_string);
  std::swap(metadata, other.metadata);
  nodes_.swap(other.nodes_);
  dead_nodes_.swap(other.dead_nodes_);
  values_.swap(other.values_);
  dead_values_.swap(other.dead_values_);
  inputs_.swap(other.inputs_);
  outputs_.swap(other.outputs_);
  by_name_.swap(other.by_name_);
  names_in_tree_.swap(other.names_in_tree_);
  own_contents();
  other.own_contents();
}

// Points what lives in this graph back at it.
void Graph::own_contents() {
  for (const auto* list : {&nodes_, &dead_nodes_}) {
    for (const auto& node : *list) {
      node->graph_ = this;
      for (Graph* inner : node->subgraphs()) inner->parent_ = this;
    }
  }
  for (const auto* list : {&values_, &dead_values_}) {
    for (const auto& value : *list) value->graph_ = this;
  }
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    for (Use& use : outputs_[i]->uses_) {
      if (use.node == nullptr && use.graph->parent_ == nullptr) use.graph = this;
    }
  }
}

}  // namespace onnxfold
