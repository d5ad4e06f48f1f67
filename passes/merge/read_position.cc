#include "passes/merge/read_position.h"

#include <set>
#include <vector>

#include "analysis/structure/correspondence.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

std::optional<std::int64_t> single(const std::optional<std::vector<std::int64_t>>& numbers) {
  return numbers && numbers->size() == 1 ? std::optional(numbers->front()) : std::nullopt;
}

// Gather of one index, or a Slice of one step, on axis 1 of [batch, positions, channels].
std::optional<std::int64_t> taken(const Node& node) {
  if (node.input(0) == nullptr || parameter(node.input(0)) != nullptr || node.input(0)->rank() != 3) return {};
  std::optional<std::int64_t> at;
  if (node.is("Gather") && node.attr_int("axis", 0) == 1) at = single(int_constants(node.input(1)));
  if (node.is("Slice") && node.inputs().size() > 3 && single(int_constants(node.input(3))) == 1) {
    at = single(int_constants(node.input(1)));
    const auto end = single(int_constants(node.input(2)));
    if (!at || !end || *end != *at + 1) return {};
  }
  return at && *at >= 0 ? at : std::nullopt;
}

}  // namespace

std::optional<std::int64_t> read_position(const Graph& graph) {
  std::optional<std::int64_t> only;
  std::set<const Value*> seen;
  std::vector<const Value*> pending(graph.outputs().begin(), graph.outputs().end());
  while (!pending.empty()) {
    const Value* value = pending.back();
    pending.pop_back();
    if (value == nullptr || parameter(value) != nullptr || !seen.insert(value).second) continue;
    const Node* node = value->producer();
    if (node == nullptr || value->graph() != &graph) return {};
    if (node->is("Shape") || node->is("Constant")) continue;
    const auto at = taken(*node);
    if (at && only && *only != *at) return {};
    if (at) {
      only = at;
      continue;
    }
    pending.insert(pending.end(), node->inputs().begin(), node->inputs().end());
  }
  return only;
}

}  // namespace onnxfold
