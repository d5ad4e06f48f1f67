#include "passes/last_axis.h"

#include <algorithm>

#include "ir/match.h"

namespace onnxfold {
namespace {

std::optional<std::int64_t> last_dim(const Value* value) {
  if (value == nullptr || !value->type().shape || value->type().shape->empty()) return {};
  const Dim& dim = value->type().shape->back();
  return dim.known() ? std::optional(*dim.value) : std::nullopt;
}

// Axes as attribute or as input `index`; nullopt when there are none or they are not constant.
std::optional<std::vector<std::int64_t>> axes_of(const Node& node, std::size_t index) {
  if (auto axes = node.attr_ints("axes")) return axes;
  return node.input(index) == nullptr ? std::nullopt : int_constants(node.input(index));
}

bool avoids_last(const std::optional<std::vector<std::int64_t>>& axes, int rank) {
  return axes && !axes->empty() &&
         std::none_of(axes->begin(), axes->end(), [rank](std::int64_t axis) { return axis == -1 || axis == rank - 1; });
}

bool inference_dropout(const Node& node) {
  if (const Value* mask = node.output(1); mask != nullptr && !mask->uses().empty()) return false;
  if (node.opset() < 7) return node.attr_int("is_test", 0) == 1;
  return node.opset() < 12 || node.input(2) == nullptr || scalar_constant(node.input(2)) == 0.0;
}

}  // namespace

bool keeps_last_axis(const Node& node, std::int64_t width) {
  const Value* input = node.input(0);
  if (!node.domain().empty() || input == nullptr || node.output() == nullptr) return false;
  if (node.is("Identity")) return true;
  if (node.is("Dropout")) return inference_dropout(node);
  const auto rank = input->rank();
  if (!rank || *rank == 0) return false;
  for (const char* op : {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand"}) {
    if (node.is(op)) return last_dim(input) == width && last_dim(node.output()) == width;
  }
  if (node.is("Transpose")) {
    const auto perm = node.attr_ints("perm");
    return perm && !perm->empty() && perm->back() == *rank - 1;
  }
  if (node.is("Gather") || node.is("Split")) {
    const std::int64_t axis = node.attr_int("axis", 0);
    return axis != -1 && axis != *rank - 1;
  }
  if (node.is("Slice")) return avoids_last(axes_of(node, 3), *rank);
  if (node.is("ReduceMean")) return avoids_last(axes_of(node, 1), *rank);
  return false;
}

}  // namespace onnxfold
