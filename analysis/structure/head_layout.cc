#include "analysis/structure/head_layout.h"

#include <algorithm>
#include <array>

#include "analysis/structure/layout_steps.h"

namespace onnxfold {
namespace layout_steps {

std::optional<std::size_t> axis_at(std::int64_t axis, std::size_t rank) {
  if (axis < 0) axis += static_cast<std::int64_t>(rank);
  if (axis < 0 || axis >= static_cast<std::int64_t>(rank)) return {};
  return static_cast<std::size_t>(axis);
}

// Number of entries of an axis; 0 when unknown.
std::int64_t extent(const Factors& factors) {
  std::int64_t product = 1;
  for (const AxisFactor& factor : factors) product *= factor.size;
  return product;
}

bool is_channel(const Factors& factors) {
  return std::any_of(factors.begin(), factors.end(), [](const AxisFactor& f) { return f.channel; });
}

}  // namespace layout_steps

namespace {

using namespace layout_steps;

Step transpose(HeadLayout layout, const Node& node) {
  const std::size_t rank = layout.axes.size();
  const auto perm = node.attr_ints("perm");
  HeadLayout result = layout;
  for (std::size_t i = 0; i < rank; ++i) {
    const std::int64_t from = perm ? (i < perm->size() ? (*perm)[i] : -1) : static_cast<std::int64_t>(rank - 1 - i);
    const auto axis = axis_at(from, rank);
    if (!axis) return {};
    result.axes[i] = layout.axes[*axis];
  }
  return result;
}

Step squeeze(HeadLayout layout, const Node& node) {
  const auto axes = axes_of(node, 1);
  std::vector<bool> drop(layout.axes.size(), false);
  if (axes) {
    for (const std::int64_t entry : *axes) {
      const auto axis = axis_at(entry, drop.size());
      if (!axis) return {};
      drop[*axis] = true;
    }
  } else {
    for (std::size_t i = 0; i < drop.size(); ++i) drop[i] = extent(layout.axes[i]) == 1;
  }
  std::vector<Factors> kept;
  for (std::size_t i = 0; i < drop.size(); ++i) {
    if (!drop[i]) kept.push_back(layout.axes[i]);
    if (drop[i] && is_channel(layout.axes[i]) && extent(layout.axes[i]) != 1) return {};
  }
  layout.axes = kept;
  return layout;
}

Step unsqueeze(HeadLayout layout, const Node& node) {
  const auto axes = axes_of(node, 1);
  if (!axes) return {};
  std::vector<bool> added(layout.axes.size() + axes->size(), false);
  for (const std::int64_t entry : *axes) {
    const auto axis = axis_at(entry, added.size());
    if (!axis || added[*axis]) return {};
    added[*axis] = true;
  }
  std::vector<Factors> result;
  auto next = layout.axes.begin();
  for (const bool fresh : added) result.push_back(fresh ? Factors{} : *next++);
  layout.axes = result;
  return layout;
}

}  // namespace

HeadLayout HeadLayout::of(const Value& value, std::int64_t columns, int channel_axis) {
  HeadLayout layout;
  const bool gemm = value.producer() != nullptr && value.producer()->is("Gemm");
  const int rank = value.rank().value_or(gemm ? 2 : 3);
  const int channel = channel_axis < 0 ? channel_axis + rank : channel_axis;
  for (int i = 0; i < rank; ++i) {
    AxisFactor factor;
    if (i == channel) {
      factor = {columns, true, 1};
    } else if (value.rank() && (*value.type().shape)[static_cast<std::size_t>(i)].known()) {
      factor.size = *(*value.type().shape)[static_cast<std::size_t>(i)].value;
    }
    layout.axes.push_back({factor});
  }
  return layout;
}

bool moves_elements(const Node& node) {
  static constexpr std::array<std::string_view, 12> kMoves = {"Transpose", "Reshape", "Squeeze",  "Unsqueeze",
                                                              "Flatten",   "Slice",   "Split",    "Gather",
                                                              "Expand",    "Tile",    "Identity", "GatherND"};
  return node.domain().empty() && std::find(kMoves.begin(), kMoves.end(), node.op_type()) != kMoves.end();
}

std::optional<HeadLayout> layout_after(const HeadLayout& layout, const Node& node, const Value& output,
                                       ShapeArithmetic& numbers) {
  if (!node.domain().empty()) return layout;
  const std::string& op = node.op_type();
  if (op == "Transpose") return transpose(layout, node);
  if (op == "Squeeze") return squeeze(layout, node);
  if (op == "Unsqueeze") return unsqueeze(layout, node);
  if (op == "Reshape" || op == "Flatten") return reshape(layout, node, numbers);
  if (op == "Slice") return slice(layout, node, numbers);
  if (op == "Split") return split(layout, node, output, numbers);
  if (op == "Gather" || op == "GatherND") return gather(layout, node, numbers);
  if (op == "Tile") return tile(layout, node, numbers);
  if (op == "Expand") {
    const auto dims = numbers.target_dims(node);
    return dims ? repeat(layout, *dims) : std::nullopt;
  }
  return layout;
}

HeadLayout context_layout(const HeadLayout& q, std::int64_t width) {
  HeadLayout layout = q;
  layout.offset = 0;
  layout.axes.back() = {{width, true, 1}};
  std::int64_t stride = width;
  for (std::size_t i = layout.axes.size() - 1; i-- > 0;) {
    for (auto factor = layout.axes[i].rbegin(); factor != layout.axes[i].rend(); ++factor) {
      if (!factor->channel) continue;
      factor->stride = stride;
      stride *= factor->size;
    }
  }
  return layout;
}

ShapeArithmetic::Extents channel_extents(const HeadLayout& layout) {
  ShapeArithmetic::Extents extents;
  for (const Factors& axis : layout.axes) {
    const bool known = is_channel(axis) && extent(axis) > 0;
    extents.push_back(known ? std::optional(extent(axis)) : std::nullopt);
  }
  return extents;
}

std::optional<HeadColumns> head_columns(const HeadLayout& layout, int feature_axis) {
  const auto feature = axis_at(feature_axis, layout.axes.size());
  if (!feature) return {};
  Factors widths;
  Factors heads;
  for (std::size_t i = 0; i < layout.axes.size(); ++i) {
    for (const AxisFactor& factor : layout.axes[i]) {
      if (factor.channel) (i == *feature ? widths : heads).push_back(factor);
    }
  }
  if (layout.axes[*feature].size() != widths.size() || widths.size() > 1) return {};
  HeadColumns columns;
  columns.offset = layout.offset;
  columns.width = widths.empty() ? 1 : widths.front().size;
  columns.element_stride = widths.empty() ? 1 : widths.front().stride;
  if (columns.element_stride == 0) return {};
  while (!heads.empty() && heads.back().stride == 0) {
    columns.repeats *= heads.back().size;
    heads.pop_back();
  }
  for (std::size_t i = heads.size(); i-- > 0;) {
    const AxisFactor& factor = heads[i];
    if (i + 1 == heads.size()) {
      columns.head_stride = factor.stride;
    } else if (factor.stride != columns.heads * columns.head_stride) {
      return {};
    }
    columns.heads *= factor.size;
  }
  return columns;
}

}  // namespace onnxfold
