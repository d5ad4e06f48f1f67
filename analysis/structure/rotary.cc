#include "analysis/structure/rotary.h"

#include <algorithm>

#include "analysis/structure/head_layout.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr int kMaxTableDepth = 24;

// Constants of several elements, or Cos / Sin, behind operators that move or scale.
bool is_table(const Value* value, int depth = 0) {
  if (value == nullptr || depth > kMaxTableDepth) return false;
  if (const Tensor* tensor = constant(value)) return tensor->size() > 1 && is_float(tensor->dtype());
  const Node* node = value->producer();
  if (node == nullptr) return false;
  if (node->is("Cos") || node->is("Sin")) return true;
  if (node->is("Concat")) {
    return std::all_of(node->inputs().begin(), node->inputs().end(),
                       [&](const Value* input) { return is_table(input, depth + 1); });
  }
  if (node->is("Mul") || node->is("Div")) {
    const std::size_t other = scalar_constant(node->input(0)) ? 1 : 0;
    return scalar_constant(node->input(1 - other)) && is_table(node->input(other), depth + 1);
  }
  if (moves_elements(*node) || node->is("Cast") || node->is("GatherND")) return is_table(node->input(0), depth + 1);
  return false;
}

std::optional<std::vector<Value*>> rotation_inputs(const Node& node) {
  if (!node.domain().empty()) return {};
  const std::string& op = node.op_type();
  if (op == "Concat") return node.inputs();
  if (op == "Add" || op == "Sub") {
    if (constant(node.input(0)) != nullptr || constant(node.input(1)) != nullptr) return {};
    return node.inputs();
  }
  if (op == "Mul") {
    for (std::size_t i = 0; i < 2; ++i) {
      if (is_table(node.input(i)) || scalar_constant(node.input(i))) return std::vector{node.input(1 - i)};
    }
    return {};
  }
  if (op == "RotaryEmbedding") return std::vector{node.input(0)};  // of a part of the head
  if (op == "Expand" || op == "Tile") return {};                   // heads repeated: no part of a rotation
  if (op == "Neg" || op == "Cast" || moves_elements(node)) return std::vector{node.input(0)};
  return {};
}

// The last node of a rotation; a Reshape only when it joins rotated pairs.
bool may_end(const Node& node) {
  if (node.is("Add") || node.is("Concat")) return true;
  if (!node.is("Reshape") && !node.is("Flatten")) return false;
  return node.input(0) != nullptr && node.input(0)->producer() != nullptr && node.input(0)->producer()->is("Concat");
}

bool same_shape(const Value& a, const Value& b) {
  if (!a.rank() || !b.rank()) return true;
  if (*a.rank() != *b.rank()) return false;
  for (std::size_t i = 0; i < a.type().shape->size(); ++i) {
    const Dim &x = (*a.type().shape)[i], &y = (*b.type().shape)[i];
    if (x.known() && y.known() && *x.value != *y.value) return false;
  }
  return true;
}

std::vector<Value*> tables_of(const std::vector<Node*>& nodes) {
  std::vector<Value*> tables;
  for (const Node* node : nodes) {
    if (node->is("RotaryEmbedding")) tables.insert(tables.end(), {node->input(1), node->input(2)});
    if (!node->is("Mul")) continue;
    Value* table = node->input(is_table(node->input(0)) ? 0 : 1);
    if (is_table(table) && std::find(tables.begin(), tables.end(), table) == tables.end()) tables.push_back(table);
  }
  return tables;
}

}  // namespace

std::optional<Rotary> rotary_making(Value* value) {
  Node* node = value == nullptr ? nullptr : value->producer();
  if (node == nullptr || value->output_index() != 0) return {};
  Rotary rotary;
  if (node->is("RotaryEmbedding") || node->is("RotaryEmbedding", "com.microsoft")) {
    const bool standard = node->domain().empty();
    rotary.source = node->input(0);
    rotary.tables = {node->input(standard ? 1 : 2), node->input(standard ? 2 : 3)};
    rotary.fused = true;
    rotary.nodes = {node};
    return rotary;
  }
  if (!may_end(*node)) return {};
  const auto region = converge(value, rotation_inputs, [&](const Region& found) {
    const bool rotates = std::any_of(found.nodes.begin(), found.nodes.end(),
                                     [](const Node* n) { return n->is("Neg") || n->is("Sub") || n->is("Concat"); });
    return rotates && same_shape(*value, *found.source) && tables_of(found.nodes).size() > 1;
  });
  if (!region) return {};
  rotary.source = region->source;
  rotary.nodes = region->nodes;
  rotary.tables = tables_of(region->nodes);
  return rotary;
}

}  // namespace onnxfold
