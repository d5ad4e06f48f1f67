// Value and Node: what can be read without the graph.
#include <fmt/format.h>

#include <cassert>

#include "ir/graph.h"
#include "ir/model.h"

namespace onnxfold {

bool Value::is_graph_output() const {
  for (const Use& use : uses_) {
    if (use.node == nullptr) return true;
  }
  return false;
}

const Tensor* Value::constant() const {
  if (constant_.defined()) return &constant_;
  if (!initializer_.defined()) return nullptr;
  // Before IR version 4 every initializer had to be listed as an input as well and was a constant all the same.
  const Model* model = graph_->model();
  const bool overridable = is_input_ && (model == nullptr || model->ir_version >= 4);
  return overridable ? nullptr : &initializer_;
}

std::int64_t Node::opset() const { return graph_ == nullptr ? 0 : graph_->opset(domain_); }

const Attribute* Node::attribute(std::string_view attribute_name) const {
  for (const Attribute& attribute : attributes_) {
    if (attribute.name == attribute_name) return &attribute;
  }
  return nullptr;
}

namespace {

template <typename T>
const T* typed(const Attribute* attribute) {
  return attribute == nullptr ? nullptr : std::get_if<T>(&attribute->value);
}

}  // namespace

std::int64_t Node::attr_int(std::string_view attribute_name, std::int64_t fallback) const {
  const auto* value = typed<std::int64_t>(attribute(attribute_name));
  return value != nullptr ? *value : fallback;
}

float Node::attr_float(std::string_view attribute_name, float fallback) const {
  const auto* value = typed<float>(attribute(attribute_name));
  return value != nullptr ? *value : fallback;
}

std::string Node::attr_string(std::string_view attribute_name, std::string_view fallback) const {
  const auto* value = typed<std::string>(attribute(attribute_name));
  return value != nullptr ? *value : std::string(fallback);
}

std::optional<std::vector<std::int64_t>> Node::attr_ints(std::string_view attribute_name) const {
  const auto* value = typed<std::vector<std::int64_t>>(attribute(attribute_name));
  if (value == nullptr) return {};
  return *value;
}

std::optional<std::vector<float>> Node::attr_floats(std::string_view attribute_name) const {
  const auto* value = typed<std::vector<float>>(attribute(attribute_name));
  if (value == nullptr) return {};
  return *value;
}

const Tensor* Node::attr_tensor(std::string_view attribute_name) const {
  return typed<Tensor>(attribute(attribute_name));
}

Graph* Node::attr_graph(std::string_view attribute_name) const {
  const auto* value = typed<std::unique_ptr<Graph>>(attribute(attribute_name));
  return value != nullptr ? value->get() : nullptr;
}

std::vector<Graph*> Node::subgraphs() const {
  std::vector<Graph*> graphs;
  for (const Attribute& attribute : attributes_) {
    if (const auto* one = typed<std::unique_ptr<Graph>>(&attribute)) graphs.push_back(one->get());
    if (const auto* many = typed<std::vector<std::unique_ptr<Graph>>>(&attribute)) {
      for (const auto& graph : *many) graphs.push_back(graph.get());
    }
  }
  return graphs;
}

void Node::set_attribute(std::string_view attribute_name, AttributeValue value) {
  assert(!is("Constant"));
  for (Attribute& attribute : attributes_) {
    if (attribute.name == attribute_name) {
      attribute.value = std::move(value);
      return;
    }
  }
  attributes_.emplace_back(std::string(attribute_name), std::move(value));
}

void Node::remove_attribute(std::string_view attribute_name) {
  std::erase_if(attributes_, [&](const Attribute& attribute) { return attribute.name == attribute_name; });
}

std::string Node::label() const {
  if (!name.empty()) return name;
  for (const Value* output : outputs_) {
    if (output != nullptr) return fmt::format("{} of output '{}'", op_type_, output->name());
  }
  return op_type_;
}

}  // namespace onnxfold
