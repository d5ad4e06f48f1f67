// Slice(Slice(x, axes a), axes b) => Slice(x, axes a and b)   a and b have no axis in common
//
// Starts, ends, axes and steps are constant; negative axes need a known rank. The inner slice may have other readers.
// Exact. Opset 10 and later (before, the bounds are attributes).
#include <algorithm>

#include "ir/match.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

struct Bounds {
  std::vector<std::int64_t> starts, ends, axes, steps;
};

std::optional<Bounds> bounds_of(const Node& slice) {
  const auto starts = int_constants(slice.input(1)), ends = int_constants(slice.input(2));
  const auto rank = slice.input(0) != nullptr ? slice.input(0)->rank() : std::nullopt;
  if (!starts || !ends || starts->size() != ends->size() || !rank) return {};
  Bounds bounds{*starts, *ends, {}, {}};
  const std::size_t count = starts->size();
  for (std::size_t i = 0; i < count; ++i) bounds.axes.push_back(static_cast<std::int64_t>(i));
  bounds.steps.assign(count, 1);
  if (slice.input(3) != nullptr) {
    const auto axes = int_constants(slice.input(3));
    if (!axes || axes->size() != count) return {};
    bounds.axes = *axes;
  }
  if (slice.input(4) != nullptr) {
    const auto steps = int_constants(slice.input(4));
    if (!steps || steps->size() != count) return {};
    bounds.steps = *steps;
  }
  for (std::int64_t& axis : bounds.axes) {
    if (axis < 0) axis += *rank;
    if (axis < 0 || axis >= *rank) return {};
  }
  return bounds;
}

bool merge(Graph& graph, Node& outer) {
  Value* middle = outer.input(0);
  Node* inner = middle == nullptr ? nullptr : middle->producer();
  if (inner == nullptr || !inner->is("Slice") || inner->graph() != &graph) return false;
  const auto first = bounds_of(*inner), second = bounds_of(outer);
  if (!first || !second) return false;
  for (const std::int64_t axis : second->axes) {
    if (std::find(first->axes.begin(), first->axes.end(), axis) != first->axes.end()) return false;
  }
  const auto joined = [&](std::vector<std::int64_t> a, const std::vector<std::int64_t>& b, std::string_view name) {
    a.insert(a.end(), b.begin(), b.end());
    const auto count = static_cast<std::int64_t>(a.size());
    return add_constant(graph, Tensor::of<std::int64_t>({count}, a), outer.output()->name() + std::string(name));
  };
  const std::vector<Value*> old(outer.inputs().begin() + 1, outer.inputs().end());
  graph.set_input(outer, 1, joined(first->starts, second->starts, "_starts"));
  graph.set_input(outer, 2, joined(first->ends, second->ends, "_ends"));
  graph.set_input(outer, 3, joined(first->axes, second->axes, "_axes"));
  graph.set_input(outer, 4, joined(first->steps, second->steps, "_steps"));
  graph.set_input(outer, 0, inner->input(0));
  for (Value* value : old) {
    if (value != nullptr) erase_if_unused(graph, *value);
  }
  erase_if_unused(graph, *middle);
  return true;
}

class MergeSlices final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* node : graph.nodes_of("Slice")) {
      if (node->opset() < 10) continue;
      while (!node->erased() && merge(graph, *node)) changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_merge_slices(const PassOptions&) { return std::make_unique<MergeSlices>(); }

}  // namespace onnxfold
