// g(f(x)) => Reshape(x, target)   where f and g are each Reshape, Flatten, Squeeze or Unsqueeze
//         => x                    when the result has x's shape
// Unsqueeze(Unsqueeze(x, a), b) => Unsqueeze(x, a + b), Squeeze likewise, when no target can be stated.
//
// f has no other reader unless the pair cancels. The target is a constant: known dimensions as numbers, 0 where the
// result has x's dimension at the same place, at most one -1 (see reshape_target). A Reshape whose own target is
// constant keeps it when that has no 0 entries. Exact.
#include <algorithm>

#include "passes/cleanup/shapes.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool only_changes_shape(const Node& node) {
  return node.is("Reshape") || node.is("Flatten") || node.is("Squeeze") || node.is("Unsqueeze");
}

bool has_target_input(const Node& node) { return node.is("Reshape") && node.opset() >= 5; }

// The target of the merged Reshape.
std::optional<std::vector<std::int64_t>> merged_target(const Node& outer, const Value& source) {
  if (has_target_input(outer)) {
    const auto own = int_constants(outer.input(1));
    const bool copies = own && std::find(own->begin(), own->end(), 0) != own->end();
    if (own && !copies) return own;
  }
  const auto& shape = outer.output()->type().shape;
  return shape ? reshape_target(source.type(), *shape) : std::nullopt;
}

// Where the new axes of both Unsqueezes lie in the final shape; `inner` counts in the middle shape.
std::vector<std::int64_t> united_unsqueeze(const std::vector<std::int64_t>& inner,
                                           const std::vector<std::int64_t>& outer, std::int64_t final_rank) {
  std::vector<std::int64_t> united;
  std::int64_t middle = 0;
  for (std::int64_t axis = 0; axis < final_rank; ++axis) {
    const bool by_outer = std::find(outer.begin(), outer.end(), axis) != outer.end();
    const bool by_inner = !by_outer && std::find(inner.begin(), inner.end(), middle) != inner.end();
    if (by_outer || by_inner) united.push_back(axis);
    if (!by_outer) ++middle;
  }
  return united;
}

std::vector<std::int64_t> united_squeeze(const std::vector<std::int64_t>& inner, const std::vector<std::int64_t>& outer,
                                         std::int64_t source_rank) {
  std::vector<std::int64_t> united;
  std::int64_t middle = 0;
  for (std::int64_t axis = 0; axis < source_rank; ++axis) {
    const bool by_inner = std::find(inner.begin(), inner.end(), axis) != inner.end();
    const bool by_outer = !by_inner && std::find(outer.begin(), outer.end(), middle) != outer.end();
    if (by_inner || by_outer) united.push_back(axis);
    if (!by_inner) ++middle;
  }
  return united;
}

void set_axes(Graph& graph, Node& node, const std::vector<std::int64_t>& axes) {
  if (node.opset() < 13) {
    node.set_attribute("axes", axes);
    return;
  }
  graph.set_input(
      node, 1, add_constant(graph, Tensor::of<std::int64_t>({static_cast<std::int64_t>(axes.size())}, axes), "axes"));
}

// Both Squeeze or both Unsqueeze with stated axes.
bool merge_axes(Graph& graph, Node& inner, Node& outer) {
  if (inner.op_type() != outer.op_type() || (!inner.is("Squeeze") && !inner.is("Unsqueeze"))) return false;
  const bool grows = inner.is("Unsqueeze");
  const auto rank = inner.input(0)->rank();
  const auto inner_stated = stated_axes(inner, 1), outer_stated = stated_axes(outer, 1);
  if (!rank || !inner_stated || !outer_stated || inner_stated->empty() || outer_stated->empty()) return false;
  const int sign = grows ? 1 : -1;
  const int middle_rank = *rank + sign * static_cast<int>(inner_stated->size());
  const int final_rank = middle_rank + sign * static_cast<int>(outer_stated->size());
  if (middle_rank < 0 || final_rank < 0) return false;
  const auto inner_axes = normalized_axes(*inner_stated, grows ? middle_rank : *rank);
  const auto outer_axes = normalized_axes(*outer_stated, grows ? final_rank : middle_rank);
  if (!inner_axes || !outer_axes) return false;
  const auto united =
      grows ? united_unsqueeze(*inner_axes, *outer_axes, final_rank) : united_squeeze(*inner_axes, *outer_axes, *rank);
  graph.set_input(outer, 0, inner.input(0));
  set_axes(graph, outer, united);
  erase_with_dead_inputs(graph, inner);
  return true;
}

bool merge(Graph& graph, Node& outer) {
  Value* middle = outer.input(0);
  Node* inner = middle == nullptr ? nullptr : middle->producer();
  if (inner == nullptr || inner->graph() != &graph || !only_changes_shape(*inner) || inner->input(0) == nullptr)
    return false;
  Value& source = *inner->input(0);
  if (same_shape(source, *outer.output(), /*equal_counts=*/true)) return replace_and_erase(graph, outer, source);
  if (sole_consumer(middle) == nullptr) return false;
  const auto target = merged_target(outer, source);
  if (!target || outer.opset() < 5 || outer.attr_int("allowzero", 0) != 0) return merge_axes(graph, *inner, outer);
  if (has_target_input(outer)) {
    graph.set_input(outer, 0, &source);
    if (int_constants(outer.input(1)) != target) {
      graph.set_input(
          outer, 1,
          add_constant(graph, Tensor::of<std::int64_t>({static_cast<std::int64_t>(target->size())}, *target), "shape"));
    }
    erase_with_dead_inputs(graph, *inner);
    return true;
  }
  Value* shape =
      add_constant(graph, Tensor::of<std::int64_t>({static_cast<std::int64_t>(target->size())}, *target), "shape");
  Node* reshape = graph.insert({.op_type = "Reshape",
                                .inputs = {&source, shape},
                                .outputs = {{outer.output()->name(), outer.output()->type()}},
                                .attributes = {},
                                .domain = "",
                                .name = outer.name},
                               &outer);
  return replace_and_erase(graph, outer, *reshape->output());
}

class MergeReshapes final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      while (!node->erased() && node->domain().empty() && only_changes_shape(*node) && merge(graph, *node))
        changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_merge_reshapes(const PassOptions&) { return std::make_unique<MergeReshapes>(); }

}  // namespace onnxfold
