#include <algorithm>

#include "analysis/structure/layout_steps.h"

namespace onnxfold::layout_steps {
namespace {

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

}  // namespace

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
  const auto sizes = split_sizes(node, size, numbers);
  const auto index = static_cast<std::size_t>(output.output_index());
  if (!sizes || index >= sizes->size()) return {};
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

}  // namespace onnxfold::layout_steps
