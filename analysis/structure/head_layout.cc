#include "analysis/structure/head_layout.h"

#include <algorithm>
#include <array>

#include "ir/match.h"

namespace onnxfold {
namespace {

using Factors = std::vector<AxisFactor>;
using Step = std::optional<HeadLayout>;

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

// Takes factors from the right end of `pool` whose product is `size`, splitting one where it has to.
std::optional<Factors> take_right(Factors& pool, std::int64_t size) {
  Factors taken;
  std::int64_t need = size;
  while (need != 1) {
    if (pool.empty() || need < 1) return {};
    AxisFactor& last = pool.back();
    if (last.size == 0) {
      if (need != size) return {};
      taken.insert(taken.begin(), {need, false, 0});  // an unknown extent turns out to be `size`
      pool.pop_back();
      return taken;
    }
    if (need % last.size == 0) {
      need /= last.size;
      taken.insert(taken.begin(), last);
      pool.pop_back();
    } else if (last.size % need == 0) {
      taken.insert(taken.begin(), {need, last.channel, last.stride});
      last.size /= need;
      last.stride *= need;
      need = 1;
    } else {
      return {};
    }
  }
  return taken;
}

// The same from the left end.
std::optional<Factors> take_left(Factors& pool, std::int64_t size) {
  Factors taken;
  std::int64_t need = size;
  while (need != 1) {
    if (pool.empty() || need < 1) return {};
    AxisFactor& first = pool.front();
    if (first.size == 0 || need % first.size == 0) {
      if (first.size == 0 && need != size) return {};
      taken.push_back(first.size == 0 ? AxisFactor{need, false, 0} : first);
      need = first.size == 0 ? 1 : need / first.size;
      pool.erase(pool.begin());
    } else if (first.size % need == 0) {
      first.size /= need;
      taken.push_back({need, first.channel, first.stride * first.size});
      need = 1;
    } else {
      return {};
    }
  }
  return taken;
}

// Axes 0..count-1, the last of which has an unknown extent and takes what the others leave.
bool share_from_left(Factors pool, std::size_t count, const std::vector<std::optional<std::int64_t>>& dims,
                     bool inferred, std::vector<Factors>& axes) {
  for (std::size_t i = 0; i + 1 < count; ++i) {
    if (dims[i]) {
      const auto taken = take_left(pool, *dims[i]);
      if (!taken) return false;
      axes[i] = *taken;
    } else if (!pool.empty() && !pool.front().channel) {
      axes[i] = {pool.front()};
      pool.erase(pool.begin());
    } else if (inferred && i < 2) {
      continue;  // batch and positions were one axis
    } else {
      return false;  // two unknown extents share channels
    }
  }
  axes[count - 1] = pool;
  return true;
}

Step regroup(HeadLayout layout, const std::vector<std::optional<std::int64_t>>& dims,
             std::optional<std::size_t> inferred) {
  Factors pool;
  for (const Factors& axis : layout.axes) {
    for (const AxisFactor& factor : axis) {
      if (factor.size != 1) pool.push_back(factor);
    }
  }
  std::vector<Factors> axes(dims.size());
  for (std::size_t i = dims.size(); i-- > 0;) {
    if (i == 0) {
      if (dims[0] && extent(pool) != 0 && extent(pool) != *dims[0]) return {};
      axes[0] = pool;
      pool.clear();
    } else if (dims[i]) {
      const auto taken = take_right(pool, *dims[i]);
      if (!taken) return {};
      axes[i] = *taken;
    } else if (pool.empty()) {
      continue;
    } else if (!pool.back().channel) {
      axes[i] = {pool.back()};
      pool.pop_back();
    } else {
      if (!share_from_left(pool, i + 1, dims, inferred == i, axes)) return {};
      pool.clear();
      break;
    }
  }
  layout.axes = axes;
  return layout;
}

Step reshape(const HeadLayout& layout, const Node& node, ShapeArithmetic& numbers) {
  const auto dims = numbers.target_dims(node);
  return dims && !dims->empty() ? regroup(layout, *dims, numbers.inferred_axis(node)) : std::nullopt;
}

// Entries start, start + step... of an axis, `count` of them (0: unknown).
Step pick(HeadLayout layout, std::size_t axis, std::int64_t start, std::int64_t count, std::int64_t step) {
  Factors& factors = layout.axes[axis];
  const std::int64_t size = extent(factors);
  if (start == 0 && step == 1 && count == size) return layout;
  if (!is_channel(factors)) {
    factors = {{count, false, 0}};
    return layout;
  }
  // Of an axis of several factors: whole entries of the outermost one.
  AxisFactor& outer = factors.front();
  const std::int64_t inner = size / outer.size;
  if (!outer.channel || count < 1 || size == 0) return {};
  if (factors.size() > 1 && (start % inner != 0 || count % inner != 0 || step != 1)) return {};
  layout.offset += start / inner * outer.stride;
  outer.size = count / inner;
  outer.stride *= step;
  return layout;
}

Step slice(HeadLayout layout, const Node& node, ShapeArithmetic& numbers) {
  const auto ranges = slice_ranges(node, numbers);
  if (!ranges) {
    // Positions may be cut at a computed place; channels may not.
    const auto axes = node.input(3) != nullptr ? numbers.integers(node.input(3)) : std::nullopt;
    if (!axes) return {};
    for (const std::int64_t entry : *axes) {
      const auto axis = axis_at(entry, layout.axes.size());
      if (!axis || is_channel(layout.axes[*axis])) return {};
      layout.axes[*axis] = {AxisFactor{}};
    }
    return layout;
  }
  Step result = std::move(layout);
  for (const SliceRange& range : *ranges) {
    const auto axis = axis_at(range.axis, result->axes.size());
    if (!axis) return {};
    const std::int64_t size = extent(result->axes[*axis]);
    if (size == 0) {
      result->axes[*axis] = {AxisFactor{}};
      continue;
    }
    if (range.step < 1) return {};
    const auto clamp = [&](std::int64_t at) { return std::clamp(at < 0 ? at + size : at, std::int64_t{0}, size); };
    const std::int64_t start = clamp(range.start);
    const std::int64_t count = (std::max(clamp(range.end) - start, std::int64_t{0}) + range.step - 1) / range.step;
    result = pick(std::move(*result), *axis, start, count, range.step);
    if (!result) return {};
  }
  return result;
}

Step split(HeadLayout layout, const Node& node, const Value& output, ShapeArithmetic& numbers) {
  const auto axis = axis_at(node.attr_int("axis", 0), layout.axes.size());
  if (!axis) return {};
  const std::int64_t size = extent(layout.axes[*axis]);
  auto sizes = node.attr_ints("split");
  if (!sizes && node.input(1) != nullptr) sizes = numbers.integers(node.input(1));
  const auto count = static_cast<std::int64_t>(node.outputs().size());
  if (!sizes) sizes.emplace(node.outputs().size(), (size + count - 1) / count);
  const auto index = static_cast<std::size_t>(output.output_index());
  if (sizes->size() != node.outputs().size() || index >= sizes->size()) return {};
  std::int64_t start = 0;
  for (std::size_t i = 0; i < index; ++i) start += (*sizes)[i];
  return pick(std::move(layout), *axis, start, std::min((*sizes)[index], std::max(size - start, std::int64_t{0})), 1);
}

// Gather of constant entries: one, a run, or each several times (repeat-kv).
Step gather(HeadLayout layout, const Node& node, ShapeArithmetic& numbers) {
  const auto axis = axis_at(node.attr_int("axis", 0), layout.axes.size());
  auto entries = numbers.integers(node.input(1));
  auto rank = node.input(1) != nullptr ? node.input(1)->rank() : std::nullopt;
  if (rank && node.is("GatherND")) {  // a list of entries of axis 0, each a list of one
    const Dim& each = node.input(1)->type().shape->back();
    if (*rank != 2 || !each.known() || *each.value != 1 || node.attr_int("batch_dims", 0) != 0) return {};
    rank = 1;
  }
  if (!axis || !entries || entries->empty() || !rank || *rank > 1) return {};
  const std::int64_t size = extent(layout.axes[*axis]);
  for (std::int64_t& entry : *entries) entry += entry < 0 ? size : 0;
  const auto count = static_cast<std::int64_t>(entries->size());
  const std::int64_t repeats = std::count(entries->begin(), entries->end(), entries->front());
  for (std::int64_t i = 0; i < count; ++i) {
    if ((*entries)[static_cast<std::size_t>(i)] != entries->front() + i / repeats) return {};
  }
  Step result = pick(std::move(layout), *axis, entries->front(), count / repeats, 1);
  if (!result) return {};
  if (repeats > 1) result->axes[*axis].push_back({repeats, is_channel(result->axes[*axis]), 0});
  if (*rank == 0) result->axes.erase(result->axes.begin() + static_cast<std::ptrdiff_t>(*axis));
  return result;
}

Step repeat(HeadLayout layout, const std::vector<std::optional<std::int64_t>>& dims) {
  if (dims.size() < layout.axes.size()) return {};
  layout.axes.insert(layout.axes.begin(), dims.size() - layout.axes.size(), Factors{});
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const std::int64_t size = extent(layout.axes[i]);
    if (size != 1 || dims[i] == 1) continue;
    // An axis of one entry repeated a known number of times may be the heads of a group; otherwise it is a batch.
    layout.axes[i] = {dims[i] && i > 0 ? AxisFactor{*dims[i], true, 0} : AxisFactor{dims[i].value_or(0), false, 0}};
  }
  return layout;
}

Step tile(HeadLayout layout, const Node& node, ShapeArithmetic& numbers) {
  const auto repeats = numbers.integers(node.input(1));
  if (!repeats || repeats->size() != layout.axes.size()) return {};
  std::vector<std::optional<std::int64_t>> dims;
  for (std::size_t i = 0; i < repeats->size(); ++i) {
    const std::int64_t size = extent(layout.axes[i]);
    if ((*repeats)[i] != 1 && size != 1) return {};
    dims.emplace_back((*repeats)[i] == 1 ? size : (*repeats)[i]);
  }
  return repeat(std::move(layout), dims);
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
