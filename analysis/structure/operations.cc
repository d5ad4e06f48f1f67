#include "analysis/structure/operations.h"

#include <fmt/format.h>

#include <algorithm>

namespace onnxfold {
namespace {

// How often a node that draws random numbers runs, and in which order, decides what it draws.
bool random(const Node& node) {
  if (!node.domain().empty()) return false;
  if (node.is("Dropout")) return node.opset() >= 12 ? node.input(2) != nullptr : node.attr_int("is_test", 1) == 0;
  return node.op_type().starts_with("Random") || node.is("Multinomial") || node.is("Bernoulli");
}

// Text of everything that decides what a node computes, but for its operands.
class Speller {
 public:
  // False when the node cannot be spelled.
  bool spell(const Node& node) {
    header(node);
    for (Value* input : node.inputs()) operands.push_back(input);
    for (const Value* input : node.inputs()) text += input == nullptr ? '-' : '+';
    outputs(node);
    return attributes(node);
  }

  std::string text;
  std::vector<Value*> operands;

 private:
  void header(const Node& node) {
    text += fmt::format("{}.{}/{}(", node.domain(), node.op_type(), node.overload);
    if (!node.opaque.empty() || random(node)) comparable_ = false;
  }
  void outputs(const Node& node) {
    text += ')';
    for (const Value* output : node.outputs()) text += output == nullptr ? '-' : '+';
  }

  bool attributes(const Node& node) {
    std::vector<const Attribute*> sorted;
    for (const Attribute& attribute : node.attributes()) sorted.push_back(&attribute);
    std::sort(sorted.begin(), sorted.end(), [](const Attribute* a, const Attribute* b) { return a->name < b->name; });
    for (const Attribute* attribute : sorted) {
      text += fmt::format(";{}:{}=", attribute->name, attribute->value.index());
      std::visit([this](const auto& value) { say(value); }, attribute->value);
    }
    return comparable_;
  }

  void say(float value) { text += fmt::format("{:a}", value); }
  void say(std::int64_t value) { text += fmt::format("{}", value); }
  void say(const std::string& value) { text += fmt::format("{}:{}", value.size(), value); }
  void say(const Type& value) { text += to_string(value); }
  void say(const Tensor& value) {
    if (const auto hash = value.content_hash()) {
      text += *hash;
    } else {
      comparable_ = false;
    }
  }
  void say(const SparseTensor&) { comparable_ = false; }
  void say(const AttributeReference& value) { text += "@" + value.name; }
  void say(const std::unique_ptr<Graph>& graph) { body(*graph); }
  template <typename T>
  void say(const std::vector<T>& values) {
    text += fmt::format("[{}:", values.size());
    for (const T& value : values) {
      say(value);
      text += ',';
    }
    text += ']';
  }

  void body(const Graph& graph) {
    text += "{";
    for (const Value* input : graph.inputs()) define(*input);
    for (const Value* value : graph.initializers()) {
      define(*value);
      say(*value->initializer());
    }
    for (const Value* value : graph.values()) comparable_ = comparable_ && value->sparse_initializer() == nullptr;
    for (const Node* node : graph.nodes()) {
      header(*node);
      for (Value* input : node->inputs()) read(input);
      outputs(*node);
      for (const Value* output : node->outputs()) {
        if (output != nullptr) define(*output);
      }
      attributes(*node);
    }
    text += "=>";
    for (Value* output : graph.outputs()) read(output);
    text += "}";
  }

  void define(const Value& value) {
    const std::size_t number = numbers_.size();
    numbers_[&value] = number;
    text += fmt::format("%{}:{} ", number, to_string(value.type()));
  }

  void read(Value* value) {
    if (value == nullptr) {
      text += "- ";
      return;
    }
    if (const auto inner = numbers_.find(value); inner != numbers_.end()) {
      text += fmt::format("%{} ", inner->second);
      return;
    }
    const auto found = captured_.try_emplace(value, captured_.size());
    if (found.second) operands.push_back(value);
    text += fmt::format("^{} ", found.first->second);
  }

  bool comparable_ = true;
  std::unordered_map<const Value*, std::size_t> numbers_, captured_;
};

}  // namespace

Operations::Operations(const Graph& graph) {
  std::unordered_map<std::string, int> numbers;
  for (const Node* node : graph.nodes()) {
    Speller speller;
    Entry entry;
    if (speller.spell(*node)) {
      entry.operation = numbers.try_emplace(std::move(speller.text), static_cast<int>(numbers.size())).first->second;
    }
    entry.operands = std::move(speller.operands);
    entries_.emplace(node, std::move(entry));
  }
}

}  // namespace onnxfold
