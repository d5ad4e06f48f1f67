// Op(x) => x   where Op gives back its input unchanged.
//
// Identity; Dropout in inference; Cast and CastLike to the type x has; Reshape, Flatten, Squeeze, Unsqueeze and Expand
// to the shape x has; Transpose in order; Slice of everything; Pad by nothing; Tile by ones; Concat, Sum, Min, Max,
// Mean and Split of one; Where with a condition that is constant and does not broadcast. An Identity that keeps a
// public name alive (from a graph input or constant to a graph output) stays. Exact.
#include <algorithm>
#include <limits>

#include "passes/cleanup/shapes.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool is_inference_dropout(const Node& node) {
  if (const Value* mask = node.output(1); mask != nullptr && !mask->uses().empty()) return false;
  if (node.opset() < 7) return node.attr_int("is_test", 0) == 1;
  if (node.opset() < 12 || node.input(2) == nullptr) return true;
  return scalar_constant(node.input(2)) == 0.0;
}

bool is_same_cast(const Node& node) {
  const DType from = node.input(0)->dtype();
  if (from == DType::kUndefined) return false;
  if (node.is("CastLike")) return node.input(1) != nullptr && node.input(1)->dtype() == from;
  return node.attr_int("to", 0) == static_cast<std::int64_t>(from);
}

bool is_same_shape(const Node& node) { return same_shape(*node.input(0), *node.output(), /*equal_counts=*/true); }

bool is_expand_by_ones(const Node& node) {
  if (same_shape(*node.input(0), *node.output())) return true;
  const auto shape = int_constants(node.input(1));
  const auto rank = node.input(0)->rank();
  return shape && rank && static_cast<int>(shape->size()) <= *rank &&
         std::all_of(shape->begin(), shape->end(), [](std::int64_t dim) { return dim == 1; });
}

bool is_ordered_transpose(const Node& node) {
  const auto perm = permutation(node);
  return perm && std::is_sorted(perm->begin(), perm->end());
}

bool is_full_slice(const Node& node) {
  const auto starts = node.opset() < 10 ? node.attr_ints("starts") : int_constants(node.input(1));
  const auto ends = node.opset() < 10 ? node.attr_ints("ends") : int_constants(node.input(2));
  const auto steps = node.input(4) == nullptr ? std::vector<std::int64_t>{} : int_constants(node.input(4));
  const auto axes = stated_axes(node, 3);
  if (!starts || !ends || !steps || !axes || starts->size() != ends->size()) return false;
  if (std::any_of(steps->begin(), steps->end(), [](std::int64_t step) { return step != 1; })) return false;
  for (std::size_t i = 0; i < starts->size(); ++i) {
    if ((*starts)[i] != 0) return false;
    // Exporters write "to the end" as the largest 32-bit or 64-bit number.
    if ((*ends)[i] >= std::numeric_limits<std::int32_t>::max()) continue;
    const auto& shape = node.input(0)->type().shape;
    if (!shape || (!axes->empty() && axes->size() != starts->size())) return false;
    std::int64_t axis = axes->empty() ? static_cast<std::int64_t>(i) : (*axes)[i];
    if (axis < 0) axis += static_cast<std::int64_t>(shape->size());
    if (axis < 0 || axis >= static_cast<std::int64_t>(shape->size())) return false;
    const Dim& dim = (*shape)[static_cast<std::size_t>(axis)];
    if (!dim.known() || (*ends)[i] < *dim.value) return false;
  }
  return true;
}

bool all_equal(const std::optional<std::vector<std::int64_t>>& numbers, std::int64_t expected) {
  return numbers &&
         std::all_of(numbers->begin(), numbers->end(), [&](std::int64_t number) { return number == expected; });
}

bool is_empty_pad(const Node& node) {
  if (node.opset() >= 11) return all_equal(int_constants(node.input(1)), 0);
  return all_equal(node.attr_ints(node.opset() < 2 ? "paddings" : "pads"), 0);
}

// The branch that a constant condition selects everywhere, if it has the result's shape.
Value* selected_branch(const Node& node) {
  const Tensor* condition = constant(node.input(0));
  if (condition == nullptr || condition->dtype() != DType::kBool || condition->nbytes() > (1 << 20)) return nullptr;
  const auto flags = to_int64s(*condition);
  if (!flags || flags->empty()) return nullptr;
  if (std::any_of(flags->begin(), flags->end(), [&](std::int64_t flag) { return flag != flags->front(); }))
    return nullptr;
  Value* branch = node.input(flags->front() != 0 ? 1 : 2);
  return branch != nullptr && same_shape(*branch, *node.output()) ? branch : nullptr;
}

using Test = bool (*)(const Node&);

Test test_for(const Node& node) {
  static constexpr std::pair<std::string_view, Test> kTests[] = {
      {"Identity", [](const Node&) { return true; }},
      {"Dropout", is_inference_dropout},
      {"Cast", is_same_cast},
      {"CastLike", is_same_cast},
      {"Reshape", is_same_shape},
      {"Flatten", is_same_shape},
      {"Squeeze", is_same_shape},
      {"Unsqueeze", is_same_shape},
      {"Expand", is_expand_by_ones},
      {"Transpose", is_ordered_transpose},
      {"Slice", is_full_slice},
      {"Pad", is_empty_pad},
      {"Tile", [](const Node& n) { return n.opset() >= 6 && all_equal(int_constants(n.input(1)), 1); }},
      {"Concat", [](const Node& n) { return n.inputs().size() == 1; }},
      {"Sum", [](const Node& n) { return n.inputs().size() == 1; }},
      {"Min", [](const Node& n) { return n.inputs().size() == 1; }},
      {"Max", [](const Node& n) { return n.inputs().size() == 1; }},
      {"Mean", [](const Node& n) { return n.inputs().size() == 1; }},
      {"Split", [](const Node& n) { return n.outputs().size() == 1 && same_shape(*n.input(0), *n.output()); }},
  };
  if (!node.domain().empty()) return nullptr;
  for (const auto& [op_type, test] : kTests) {
    if (op_type == node.op_type()) return test;
  }
  return nullptr;
}

class RemoveIdentity final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (node->erased() || node->output() == nullptr) continue;
      Value* replacement = nullptr;
      if (node->is("Where")) {
        replacement = selected_branch(*node);
      } else if (const Test test = test_for(*node); test != nullptr && node->input(0) != nullptr && test(*node)) {
        replacement = node->input(0);
      }
      if (replacement != nullptr && replace_and_erase(graph, *node, *replacement)) changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_remove_identity(const PassOptions&) { return std::make_unique<RemoveIdentity>(); }

}  // namespace onnxfold
