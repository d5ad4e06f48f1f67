#include "passes/reparam/conv/channel_axis.h"

#include <algorithm>

#include "analysis/structure/shape_arithmetic.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

using Axis = std::optional<std::int64_t>;

std::vector<std::int64_t> normalized(std::vector<std::int64_t> axes, std::int64_t rank) {
  for (std::int64_t& axis : axes) axis = axis < 0 ? axis + rank : axis;
  std::sort(axes.begin(), axes.end());
  return axes;
}

Axis after_transpose(const Node& node, std::int64_t axis, std::int64_t rank) {
  const auto perm = node.attr_ints("perm");
  if (!perm) return rank - 1 - axis;
  const auto place = std::find(perm->begin(), perm->end(), axis);
  return place == perm->end() ? Axis() : place - perm->begin();
}

// Axes taken away; `axis` must stay.
Axis after_removal(const std::vector<std::int64_t>& axes, std::int64_t axis) {
  if (std::find(axes.begin(), axes.end(), axis) != axes.end()) return std::nullopt;
  return axis - std::count_if(axes.begin(), axes.end(), [axis](std::int64_t each) { return each < axis; });
}

Axis after_unsqueeze(const std::vector<std::int64_t>& axes, std::int64_t axis) {
  for (const std::int64_t added : axes) axis += added <= axis ? 1 : 0;
  return axis;
}

bool same_dim(const Node& node, const Dim& a, const Dim& b, std::size_t place) {
  if (a.known() && b.known()) return *a.value == *b.value;
  if (!a.symbol.empty() && a.symbol == b.symbol) return true;
  const auto target =
      node.is("Reshape") && node.attr_int("allowzero", 0) == 0 ? int_constants(node.input(1)) : std::nullopt;
  return target && place < target->size() && (*target)[place] == 0;  // copied
}

// In row-major order an axis stays whole where everything before it, or everything behind it, stays as it is.
Axis after_reshape(const Node& node, std::int64_t axis) {
  const Type &from = node.input(0)->type(), &to = node.output()->type();
  if (!from.shape || !to.shape || to.shape->empty()) return std::nullopt;
  const auto at = static_cast<std::size_t>(axis);
  const Dim& channels = (*from.shape)[at];
  const auto is_channels = [&](const Dim& dim) {
    return dim.known() && channels.known() && *dim.value == *channels.value;
  };
  if (at + 1 == from.shape->size() && is_channels(to.shape->back())) {
    return static_cast<std::int64_t>(to.shape->size()) - 1;
  }
  if (at >= to.shape->size() || !is_channels((*to.shape)[at])) return std::nullopt;
  for (std::size_t i = 0; i < at; ++i) {
    if (!same_dim(node, (*from.shape)[i], (*to.shape)[i], i)) return std::nullopt;
  }
  return axis;
}

Axis after_pool(const Node& node, std::int64_t axis) {
  if (axis != 1 || node.attr_int("ceil_mode", 0) != 0) return std::nullopt;
  const auto pads = node.attr_ints("pads");
  const std::string mode = node.attr_string("auto_pad", "NOTSET");
  const bool padded = pads && std::any_of(pads->begin(), pads->end(), [](std::int64_t pad) { return pad != 0; });
  return padded || (mode != "NOTSET" && mode != "VALID") ? Axis() : axis;
}

Axis after_mean(const Node& node, std::int64_t axis, std::int64_t rank) {
  if (node.opset() >= 18 && node.input(1) == nullptr) return std::nullopt;  // over all axes, or none
  const auto axes = axes_of(node, 1);
  if (!axes || axes->empty()) return std::nullopt;
  const auto left = after_removal(normalized(*axes, rank), axis);
  return !left || node.attr_int("keepdims", 1) == 0 ? left : Axis(axis);
}

}  // namespace

std::optional<std::int64_t> channel_axis_after(const Node& node, std::int64_t axis) {
  if (!node.domain().empty() || node.input(0) == nullptr || node.output() == nullptr) return std::nullopt;
  const auto rank = node.input(0)->rank(), rank_after = node.output()->rank();
  if (!rank || !rank_after || axis >= *rank) return std::nullopt;
  if (node.is("Identity")) return axis;
  if (node.is("Transpose")) return after_transpose(node, axis, *rank);
  if (node.is("Reshape") || node.is("Flatten")) return after_reshape(node, axis);
  if (node.is("GlobalAveragePool")) return axis == 1 ? Axis(axis) : Axis();
  if (node.is("AveragePool")) return after_pool(node, axis);
  if (node.is("ReduceMean")) return after_mean(node, axis, *rank);
  const auto axes = node.is("Squeeze") || node.is("Unsqueeze") ? axes_of(node, 1) : std::nullopt;
  if (!axes) return std::nullopt;
  return node.is("Squeeze") ? after_removal(normalized(*axes, *rank), axis)
                            : after_unsqueeze(normalized(*axes, *rank_after), axis);
}

}  // namespace onnxfold
