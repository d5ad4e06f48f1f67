#include "ir/graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "ir/model.h"

namespace onnxfold {
namespace {

// The tensor that a Constant node makes, in whichever of its attributes it is given.
Tensor constant_tensor(const Node& node) {
  for (const Attribute& attribute : node.attributes()) {
    if (const auto* tensor = std::get_if<Tensor>(&attribute.value)) return *tensor;
    if (const auto* number = std::get_if<float>(&attribute.value)) return Tensor::scalar(*number);
    if (const auto* number = std::get_if<std::int64_t>(&attribute.value)) return Tensor::scalar(*number);
    if (const auto* text = std::get_if<std::string>(&attribute.value)) return Tensor::strings({}, {*text});
    if (const auto* numbers = std::get_if<std::vector<float>>(&attribute.value)) {
      return Tensor::of({static_cast<std::int64_t>(numbers->size())}, *numbers);
    }
    if (const auto* numbers = std::get_if<std::vector<std::int64_t>>(&attribute.value)) {
      return Tensor::of({static_cast<std::int64_t>(numbers->size())}, *numbers);
    }
    if (const auto* texts = std::get_if<std::vector<std::string>>(&attribute.value)) {
      return Tensor::strings({static_cast<std::int64_t>(texts->size())}, *texts);
    }
  }
  return {};
}

}  // namespace

Graph::Graph(Graph* parent) : parent_(parent), model_(parent != nullptr ? parent->model_ : nullptr) {}

// Subgraphs release their uses of our values while we still exist: nodes go first.
Graph::~Graph() {
  dead_nodes_.clear();
  nodes_.clear();
}

// ---- reading ----

std::vector<Node*> Graph::nodes() const {
  std::vector<Node*> snapshot;
  snapshot.reserve(nodes_.size());
  for (const auto& node : nodes_) snapshot.push_back(node.get());
  return snapshot;
}

std::vector<Node*> Graph::nodes_of(std::string_view op_type, std::string_view domain) const {
  std::vector<Node*> found;
  for (const auto& node : nodes_) {
    if (node->is(op_type, domain)) found.push_back(node.get());
  }
  return found;
}

std::vector<Value*> Graph::initializers() const {
  std::vector<Value*> found;
  for (const auto& value : values_) {
    if (value->initializer_.defined()) found.push_back(value.get());
  }
  return found;
}

std::vector<Value*> Graph::values() const {
  std::vector<Value*> all;
  all.reserve(values_.size());
  for (const auto& value : values_) all.push_back(value.get());
  return all;
}

Value* Graph::find(std::string_view value_name) const {
  const auto found = by_name_.find(std::string(value_name));
  return found == by_name_.end() ? nullptr : found->second;
}

Value* Graph::find_in_scope(std::string_view value_name) const {
  for (const Graph* graph = this; graph != nullptr; graph = graph->parent_) {
    if (Value* found = graph->find(value_name)) return found;
  }
  return nullptr;
}

Graph& Graph::root() {
  Graph* graph = this;
  while (graph->parent_ != nullptr) graph = graph->parent_;
  return *graph;
}

bool Graph::before(const Node& a, const Node& b) const { return a.order_ < b.order_; }

const OpsetImports& Graph::opset_imports() const {
  static const OpsetImports kNone;
  const Graph* graph = this;
  while (graph->parent_ != nullptr) graph = graph->parent_;
  return graph->opsets_ != nullptr ? *graph->opsets_ : kNone;
}

std::int64_t Graph::opset(std::string_view domain) const {
  const OpsetImports& imports = opset_imports();
  const auto found = imports.find(std::string(domain == "ai.onnx" ? "" : domain));
  return found == imports.end() ? 0 : found->second;
}

const Model* Graph::model() const {
  const Graph* graph = this;
  while (graph->parent_ != nullptr) graph = graph->parent_;
  return graph->model_;
}

void Graph::adopt_opsets(const Graph& other) {
  opsets_ = other.opsets_;
  model_ = other.model_;
}

// ---- names ----

std::string Graph::unique_name(std::string_view hint) {
  auto& taken = root().names_in_tree_;
  const std::string base(hint.empty() ? "value" : hint);
  if (!taken.contains(base)) return base;
  for (std::int64_t i = 1;; ++i) {
    std::string candidate = fmt::format("{}_{}", base, i);
    if (!taken.contains(candidate)) return candidate;
  }
}

void Graph::take_name(Value& value, std::string value_name) {
  value.name_ = std::move(value_name);
  by_name_[value.name_] = &value;
  ++root().names_in_tree_[value.name_];
}

void Graph::release_name(const Value& value) {
  const auto found = by_name_.find(value.name_);
  if (found != by_name_.end() && found->second == &value) by_name_.erase(found);
  auto& taken = root().names_in_tree_;
  const auto count = taken.find(value.name_);
  if (count != taken.end() && --count->second == 0) taken.erase(count);
}

void Graph::rename(Value& value, std::string value_name) {
  if (value.name_ == value_name) return;
  release_name(value);
  take_name(value, unique_name(value_name));
}

Value* Graph::new_value(std::string value_name, Type type) {
  values_.push_back(std::unique_ptr<Value>(new Value));
  Value* value = values_.back().get();
  value->self_ = std::prev(values_.end());
  value->graph_ = this;
  value->type_ = std::move(type);
  take_name(*value, std::move(value_name));
  return value;
}

Result<Value*> Graph::add_value_exact(std::string value_name, Type type) {
  if (find(value_name) != nullptr) {
    return fail(Code::kCorrupt, fmt::format("the name '{}' is defined twice", value_name));
  }
  return new_value(std::move(value_name), std::move(type));
}

Result<Value*> Graph::add_input_exact(std::string value_name, Type type) {
  OF_ASSIGN(Value * value, add_value_exact(std::move(value_name), std::move(type)));
  value->is_input_ = true;
  inputs_.push_back(value);
  return value;
}

Result<Value*> Graph::add_initializer_exact(std::string value_name, Tensor tensor) {
  Type type = Type::tensor(tensor.dtype(), tensor.dims());
  OF_ASSIGN(Value * value, add_value_exact(std::move(value_name), std::move(type)));
  value->initializer_ = std::move(tensor);
  return value;
}

// ---- use lists ----

void Graph::attach(Value& value, Use use) { value.uses_.push_back(use); }

void Graph::detach(Value& value, Use use) {
  const auto found = std::find(value.uses_.begin(), value.uses_.end(), use);
  assert(found != value.uses_.end());
  if (found != value.uses_.end()) value.uses_.erase(found);
}

// ---- building ----

Value* Graph::add_input(std::string value_name, Type type) {
  Value* value = new_value(unique_name(value_name), std::move(type));
  value->is_input_ = true;
  inputs_.push_back(value);
  return value;
}

Value* Graph::add_initializer(std::string name_hint, Tensor tensor) {
  Value* value = new_value(unique_name(name_hint), Type::tensor(tensor.dtype(), tensor.dims()));
  value->initializer_ = std::move(tensor);
  return value;
}

Result<Value*> Graph::add_sparse_initializer(std::string value_name, SparseTensor tensor) {
  Type type = Type::tensor(tensor.values.dtype(), tensor.dims);
  OF_ASSIGN(Value * value, add_value_exact(std::move(value_name), std::move(type)));
  value->sparse_ = std::make_unique<SparseTensor>(std::move(tensor));
  return value;
}

void Graph::set_input_default(Value& input, Tensor tensor) {
  assert(input.is_input_);
  input.initializer_ = std::move(tensor);
}

void Graph::remove_input(std::size_t index) {
  Value* value = inputs_[index];
  inputs_.erase(inputs_.begin() + static_cast<std::ptrdiff_t>(index));
  value->is_input_ = false;
  if (value->uses_.empty()) erase(*value);
}

void Graph::add_output(Value& value) {
  attach(value, Use{nullptr, static_cast<int>(outputs_.size()), this});
  outputs_.push_back(&value);
}

void Graph::set_output(std::size_t index, Value& value) {
  const Use use{nullptr, static_cast<int>(index), this};
  detach(*outputs_[index], use);
  outputs_[index] = &value;
  attach(value, use);
}

void Graph::remove_output(std::size_t index) {
  for (std::size_t i = index; i < outputs_.size(); ++i) detach(*outputs_[i], Use{nullptr, static_cast<int>(i), this});
  outputs_.erase(outputs_.begin() + static_cast<std::ptrdiff_t>(index));
  for (std::size_t i = index; i < outputs_.size(); ++i) attach(*outputs_[i], Use{nullptr, static_cast<int>(i), this});
}

// ---- the four mutators ----

void Graph::link_node(Node& node, const Node* before) {
  const auto next = before == nullptr ? nodes_.end() : before->self_;
  nodes_.splice(next, nodes_, node.self_);
  const auto after = std::next(node.self_);
  const std::int64_t low = node.self_ == nodes_.begin() ? 0 : (*std::prev(node.self_))->order_;
  const std::int64_t high = after == nodes_.end() ? low + 2 * kOrderGap : (*after)->order_;
  node.order_ = low + (high - low) / 2;
  if (node.order_ != low && node.order_ != high) return;
  std::int64_t order = 0;
  for (const auto& each : nodes_) each->order_ = order += kOrderGap;
}

Result<Node*> Graph::insert_exact(NodeSpec spec, std::vector<Value*> outputs) {
  nodes_.push_back(std::unique_ptr<Node>(new Node));
  Node* node = nodes_.back().get();
  node->self_ = std::prev(nodes_.end());
  node->graph_ = this;
  node->op_type_ = std::move(spec.op_type);
  node->domain_ = spec.domain == "ai.onnx" ? "" : std::move(spec.domain);
  node->name = std::move(spec.name);
  node->attributes_ = std::move(spec.attributes);
  node->inputs_ = std::move(spec.inputs);
  node->outputs_ = std::move(outputs);
  link_node(*node, nullptr);
  for (std::size_t i = 0; i < node->inputs_.size(); ++i) {
    if (node->inputs_[i] != nullptr) attach(*node->inputs_[i], Use{node, static_cast<int>(i), nullptr});
  }
  for (std::size_t i = 0; i < node->outputs_.size(); ++i) {
    Value* output = node->outputs_[i];
    if (output == nullptr) continue;
    output->producer_ = node;
    output->output_index_ = static_cast<int>(i);
  }
  for ([[maybe_unused]] const Graph* graph : node->subgraphs()) assert(graph->parent_ == this);
  if (node->is("Constant") && node->output() != nullptr) {
    Value* output = node->output();
    output->constant_ = constant_tensor(*node);
    if (output->constant_.defined() && output->type_.kind == Type::Kind::kNone) {
      output->type_ = Type::tensor(output->constant_.dtype(), output->constant_.dims());
    }
  }
  return node;
}

Node* Graph::insert(NodeSpec spec, const Node* before) {
  std::vector<Value*> outputs;
  for (OutputSpec& output : spec.outputs) {
    const std::string hint = output.name.empty() ? spec.op_type + "_output" : output.name;
    outputs.push_back(output.omitted ? nullptr : new_value(unique_name(hint), std::move(output.type)));
  }
  Node* node = *insert_exact(std::move(spec), std::move(outputs));
  if (before != nullptr) link_node(*node, before);
  return node;
}

void Graph::set_input(Node& node, std::size_t index, Value* value) {
  if (index >= node.inputs_.size()) node.inputs_.resize(index + 1, nullptr);
  const Use use{&node, static_cast<int>(index), nullptr};
  if (node.inputs_[index] != nullptr) detach(*node.inputs_[index], use);
  node.inputs_[index] = value;
  if (value != nullptr) attach(*value, use);
  while (!node.inputs_.empty() && node.inputs_.back() == nullptr) node.inputs_.pop_back();
}

bool Graph::can_replace(const Value& from, const Value& to) const {
  if (&from == &to) return false;
  for (const Use& use : from.uses()) {
    if (use.node != nullptr) continue;
    if (use.graph->parent_ != nullptr) {
      // A subgraph's outputs are matched by position, but must be made inside it.
      if (to.graph() != use.graph || to.is_input_ || to.producer_ == nullptr) return false;
    } else if (to.graph() != use.graph || to.producer_ == nullptr || to.is_graph_output()) {
      return false;
    }
  }
  return true;
}

void Graph::replace_all_uses(Value& from, Value& to) {
  assert(can_replace(from, to));
  bool moves_name = false;
  for (const Use& use : from.uses_) moves_name = moves_name || (use.node == nullptr && use.graph->parent_ == nullptr);
  if (moves_name) {
    Graph& owner = *from.graph_;
    std::string public_name = from.name_;
    owner.release_name(from);
    to.graph_->release_name(to);
    to.graph_->take_name(to, public_name);
    owner.take_name(from, owner.unique_name(public_name));
    if (from.type_.is_tensor()) to.type_ = from.type_;  // the declared output type is part of the interface
    std::swap(to.doc_string, from.doc_string);
    std::swap(to.metadata, from.metadata);
  }
  std::vector<Use> uses;
  uses.swap(from.uses_);
  for (const Use& use : uses) {
    if (use.node != nullptr) {
      use.node->inputs_[static_cast<std::size_t>(use.index)] = &to;
    } else {
      use.graph->outputs_[static_cast<std::size_t>(use.index)] = &to;
    }
    attach(to, use);
  }
}

void Graph::erase(Node& node) {
  for ([[maybe_unused]] const Value* output : node.outputs_) assert(output == nullptr || output->uses_.empty());
  for (std::size_t i = 0; i < node.inputs_.size(); ++i) {
    if (node.inputs_[i] != nullptr) detach(*node.inputs_[i], Use{&node, static_cast<int>(i), nullptr});
  }
  node.inputs_.clear();
  for (Graph* inner : node.subgraphs()) {
    // Give back what the subgraph captured. Innermost consumers go last to first, so that erase()'s rule holds.
    while (!inner->outputs_.empty()) inner->remove_output(inner->outputs_.size() - 1);
    std::vector<Node*> all = inner->nodes();
    for (auto each = all.rbegin(); each != all.rend(); ++each) inner->erase(**each);
    for (Value* value : inner->values()) inner->release_name(*value);
    inner->by_name_.clear();
  }
  for (Value* output : node.outputs_) {
    if (output != nullptr) erase(*output);
  }
  node.erased_ = true;
  dead_nodes_.splice(dead_nodes_.end(), nodes_, node.self_);
}

void Graph::erase(Value& value) {
  assert(value.uses_.empty() && !value.is_input_);
  release_name(value);
  value.erased_ = true;
  dead_values_.splice(dead_values_.end(), values_, value.self_);
}

void Graph::purge() {
  for (Node* node : nodes()) {
    for (Graph* inner : node->subgraphs()) inner->purge();
  }
  dead_nodes_.clear();
  dead_values_.clear();
}

}  // namespace onnxfold
