// Second half of head_growth: makes the planned changes.
#include <algorithm>

#include "analysis/structure/linear.h"
#include "analysis/structure/shape_arithmetic.h"
#include "ir/match.h"
#include "passes/head_growth.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

using Entries = std::vector<std::int64_t>;

// `one` but `count` at these places.
Value* vector_constant(Graph& graph, std::size_t size, const std::vector<std::size_t>& places, std::int64_t count) {
  Entries entries(size, 1);
  for (const std::size_t place : places) entries[place] = count;
  return graph.add_initializer("heads", Tensor::of<std::int64_t>({static_cast<std::int64_t>(size)}, entries));
}

Value* inserted(Graph& graph, const char* op, std::vector<Value*> inputs, const Node* before, DType type) {
  NodeSpec spec{op, std::move(inputs), {{"heads", Type::tensor(type), false}}, {}, "", ""};
  return graph.insert(std::move(spec), before)->output();
}

}  // namespace

// Counts of 0 and -1 (and of 1, for Expand) say something else.
void HeadGrowth::correct(Graph& graph, Node& node, const std::set<std::size_t>& axes, std::size_t rank) const {
  Value* target = node.input(1);
  const std::vector<std::size_t> places(axes.begin(), axes.end());
  Value* more =
      inserted(graph, "Mul", {target, vector_constant(graph, rank, places, factor_.times)}, &node, DType::kInt64);
  more = inserted(graph, "Div", {more, vector_constant(graph, rank, places, factor_.per)}, &node, DType::kInt64);
  Value* least = graph.add_initializer("heads", Tensor::of<std::int64_t>({1}, {node.is("Expand") ? 1 : 0}));
  Value* counts = inserted(graph, "Greater", {target, least}, &node, DType::kBool);
  graph.set_input(node, 1, inserted(graph, "Where", {counts, more, target}, &node, DType::kInt64));
}

void HeadGrowth::keep_numbers(Graph& graph, Node& shape, const std::vector<std::size_t>& entries) const {
  const std::vector<Node*> nodes = graph.nodes();
  const auto at = std::find(nodes.begin(), nodes.end(), &shape);
  const Node* next = at + 1 == nodes.end() ? nullptr : *(at + 1);
  const std::vector<Use> uses = shape.output()->uses();
  const std::int64_t rank = *shape.input(0)->rank();
  const auto bound = [&](const char* name, std::int64_t fallback) {
    const std::int64_t number = shape.attr_int(name, fallback);
    return std::clamp<std::int64_t>(number < 0 ? number + rank : number, 0, rank);
  };
  const auto size = static_cast<std::size_t>(bound("end", rank) - bound("start", 0));
  Value* was =
      inserted(graph, "Mul", {shape.output(), vector_constant(graph, size, entries, factor_.per)}, next, DType::kInt64);
  was = inserted(graph, "Div", {was, vector_constant(graph, size, entries, factor_.times)}, next, DType::kInt64);
  for (const Use& use : uses) {
    if (use.node != nullptr) graph.set_input(*use.node, use.index, was);
  }
}

void HeadGrowth::apply(Graph& graph) {
  for (const auto& [node, input, numbers] : inputs_) {
    if (input == 0) {
      node->set_attribute("split", numbers);
      continue;
    }
    Value* old = node->input(input);
    if (int_constants(old) == numbers) continue;
    const auto count = static_cast<std::int64_t>(numbers.size());
    Tensor tensor = Tensor::of<std::int64_t>({count}, numbers);
    if (constant(old) != nullptr && constant(old)->dtype() == DType::kInt32) {
      tensor = Tensor::of<std::int32_t>({count}, std::vector<std::int32_t>(numbers.begin(), numbers.end()));
    }
    graph.set_input(*node, input, graph.add_initializer(old->name(), std::move(tensor)));
    erase_if_unused(graph, *old);
  }
  for (Node* node : order_) {
    const Target& target = targets_.at(node);
    NodeSpec spec{"Concat", {}, {{node->input(1)->name(), node->input(1)->type()}}, {}, "", ""};
    std::size_t at = 0;
    for (Value* input : target.concat->inputs()) {
      const std::size_t count = numbers_.elements(input)->size();
      Entries entries;
      for (std::size_t i = 0; i < count; ++i) entries.push_back(target.entries[at + i].value_or(-1));
      const bool known = target.entries[at].has_value();
      at += count;
      spec.inputs.push_back(
          !known ? input
                 : graph.add_initializer(input->name(),
                                         Tensor::of<std::int64_t>({static_cast<std::int64_t>(count)}, entries)));
    }
    spec.attributes.emplace_back("axis", std::int64_t{0});
    Value* old = node->input(1);
    graph.set_input(*node, 1, graph.insert(std::move(spec), node)->output());
    erase_if_unused(graph, *old);
  }
  for (const Corrected& each : corrected_) correct(graph, *each.node, each.axes, each.rank);
  for (const auto& [node, entries] : shapes_kept_) {
    if (!node->erased()) keep_numbers(graph, *node, entries);  // a target that is constant now may not need it
  }
  for (const auto& [node, heads] : head_attributes_) node->set_attribute("num_heads", heads);
  for (const auto& [value, axes] : growing_) {
    Type type = value->type();
    for (const auto& [axis, count] : axes) {
      if (type.shape && axis < type.shape->size()) (*type.shape)[axis] = Dim{count, "", ""};
    }
    value->set_type(type);
  }
  for (Value* value : unknown_) {
    Type type = value->type();
    if (type.shape) type.shape = std::vector<Dim>(type.shape->size());
    value->set_type(type);
  }
}

std::string find_score_nodes(const Attention& attention, const std::vector<Node*>& passed,
                             std::vector<Node*>& score_nodes) {
  std::set<const Node*> others(passed.begin(), passed.end());
  const auto leave_out = [&](const std::vector<Node*>& nodes) { others.insert(nodes.begin(), nodes.end()); };
  others.insert(attention.context_product);
  leave_out(attention.out->nodes());
  for (const Projection* projection : {&attention.q, &attention.k, &attention.v}) {
    leave_out(projection->nodes);
    leave_out(projection->linear->nodes());
  }
  for (Node* node : attention.nodes) {
    if (others.count(node) != 0) continue;
    if (node->is("Reshape") || node->is("Squeeze") || node->is("Unsqueeze") || node->is("Expand"))
      return node->label() + " reshapes the scores";
    score_nodes.push_back(node);
  }
  return {};
}

bool closed_but_shapes(const Attention& attention) {
  std::vector<Node*> nodes = attention.nodes;
  for (const Node* node : attention.nodes) {
    for (const Value* output : node->outputs()) {
      if (output == nullptr) continue;
      for (const Use& use : output->uses()) {
        if (use.node != nullptr && use.node->graph() == node->graph() && use.node->is("Shape"))
          nodes.push_back(use.node);
      }
    }
  }
  for (const Node* node : attention.nodes) {
    for (const Value* output : node->outputs()) {
      if (output == nullptr || output == attention.output) continue;
      for (const Use& use : output->uses()) {
        if (use.node == nullptr || std::find(nodes.begin(), nodes.end(), use.node) == nodes.end()) return false;
      }
    }
  }
  return true;
}

}  // namespace onnxfold
