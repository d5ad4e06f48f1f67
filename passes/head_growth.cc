#include "passes/head_growth.h"

#include <algorithm>

#include "analysis/structure/linear.h"
#include "analysis/structure/shape_arithmetic.h"
#include "ir/match.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

using Entries = std::vector<std::int64_t>;

std::int64_t extent(const std::vector<AxisFactor>& axis) {
  std::int64_t product = 1;
  for (const AxisFactor& factor : axis) product *= factor.size;
  return product;
}

std::optional<std::size_t> axis_index(std::int64_t axis, std::size_t rank) {
  if (axis < 0) axis += static_cast<std::int64_t>(rank);
  if (axis < 0 || axis >= static_cast<std::int64_t>(rank)) return {};
  return static_cast<std::size_t>(axis);
}

bool grows(const HeadLayout& layout, std::size_t axis, const Growth& growth) {
  return axis < layout.axes.size() && growth.holds(layout.axes[axis]);
}

bool any_grows(const HeadLayout& layout, const Growth& growth) {
  return std::any_of(layout.axes.begin(), layout.axes.end(), [&](const auto& axis) { return growth.holds(axis); });
}

// Element-wise, or within an axis that is checked apart: what rotary embeddings and their like are made of.
bool is_inner(const Node& node) {
  for (const char* op : {"Mul", "Add", "Sub", "Neg", "Cast", "Concat", "Cos", "Sin", "Identity", "Unsqueeze", "Div",
                         "Pow", "Sqrt", "Reciprocal"}) {
    if (node.is(op)) return true;
  }
  return false;
}

bool is_norm_part(const Node& node) {
  for (const char* op : {"ReduceMean", "ReduceSum", "ReduceL2", "LayerNormalization", "RMSNormalization",
                         "SimplifiedLayerNormalization"}) {
    if (node.op_type() == op) return true;
  }
  return false;
}

}  // namespace

bool Growth::holds(const std::vector<AxisFactor>& axis) const {
  return std::any_of(axis.begin(), axis.end(), [&](const AxisFactor& factor) {
    return factor.channel && factor.stride < stride * size && factor.stride * factor.size >= stride * size;
  });
}

int HeadGrowth::growing_axis(const HeadLayout& layout, const Growth& growth) {
  int found = 0;
  for (std::size_t i = 0; i < layout.axes.size(); ++i) {
    if (!growth.holds(layout.axes[i])) continue;
    if (found != 0) return 0;
    found = static_cast<int>(layout.axes.size() - i);
  }
  return found;
}

void HeadGrowth::note_value(Value& value, const HeadLayout& layout, const Growth& growth) {
  for (std::size_t i = 0; i < layout.axes.size(); ++i) {
    if (grows(layout, i, growth)) growing_[&value][i] = growth.grown(extent(layout.axes[i]));
  }
}

std::string HeadGrowth::plan(const HeadPath& path, Value& start, const Growth& growth) {
  if (!any_grows(path.first, growth) || growing_axis(path.last(), growth) == 0) return "its heads cannot be followed";
  note_value(start, path.first, growth);
  factor_ = growth;
  for (const HeadStep& step : path.steps) {
    for (const auto& axis : step.before.axes) {
      if (growth.holds(axis) && !growth.divides(extent(axis))) return "its heads do not divide " + step.node->label();
    }
    if (std::string why = plan_step(step, growth); !why.empty()) return why;
    note_value(*step.output, step.after, growth);
  }
  return {};
}

std::string HeadGrowth::plan_step(const HeadStep& step, const Growth& growth) {
  Node& node = *step.node;
  if (!step.moves) {
    for (Node* inner : step.inner) {
      if (std::string why = plan_inner(*inner, step, growth); !why.empty()) return why;
    }
    return plan_inner(node, step, growth);
  }
  if (node.is("Reshape") || node.is("Expand")) return plan_target(step, growth);
  if (node.is("Split")) return plan_split(step, growth);
  if (node.is("Slice")) return plan_slice(step, growth);
  if (node.is("Gather") || node.is("GatherND")) {
    const auto axis = axis_index(node.attr_int("axis", 0), step.before.axes.size());
    return axis && !grows(step.before, *axis, growth) ? "" : node.label() + " picks heads";
  }
  const bool same = node.is("Transpose") || node.is("Squeeze") || node.is("Unsqueeze") || node.is("Identity") ||
                    node.is("Tile") || node.is("Flatten");
  return same ? "" : node.label() + " stands in the way of the heads";
}

std::string HeadGrowth::keep(Node& node, std::size_t input, Entries numbers) {
  const auto known = std::find_if(inputs_.begin(), inputs_.end(),
                                  [&](const Input& each) { return each.node == &node && each.input == input; });
  if (known != inputs_.end()) return known->numbers == numbers ? "" : node.label() + " is read in two ways";
  inputs_.push_back({&node, input, std::move(numbers)});
  return {};
}

std::string HeadGrowth::plan_target(const HeadStep& step, const Growth& growth) {
  Node& node = *step.node;
  if (!any_grows(step.after, growth)) return {};
  const auto target = node.input(1) != nullptr ? int_constants(node.input(1)) : std::nullopt;
  if (!target) {
    std::string why = plan_concat(node, step, growth);
    return why.empty() || !compute_ ? why : plan_computed(step, growth);
  }
  if (target->size() != step.after.axes.size()) return "the shape of " + node.label() + " is not understood";
  Entries entries = *target;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const bool here = grows(step.after, i, growth);
    if (entries[i] == 0 && here != grows(step.before, i, growth)) return node.label() + " copies a dimension";
    if (!here || entries[i] <= 0 || (node.is("Expand") && entries[i] == 1)) continue;
    if (!growth.divides(entries[i])) return "the heads do not divide the shape of " + node.label();
    entries[i] = growth.grown(entries[i]);
  }
  return keep(node, 1, std::move(entries));
}

// Concat of one entry or more each: those that are known become constants, the others stay as they are computed.
std::string HeadGrowth::plan_concat(Node& node, const HeadStep& step, const Growth& growth) {
  Value* shape = behind_identity(node.input(1));
  Target target;
  target.concat = shape == nullptr ? nullptr : shape->producer();
  const std::string unknown = "the shape of " + node.label() + " is computed in a way that is not understood";
  if (target.concat == nullptr || !target.concat->is("Concat")) return unknown;
  std::size_t at = 0;
  for (Value* input : target.concat->inputs()) {
    const auto elements = numbers_.elements(input);
    if (!elements || at + elements->size() > step.after.axes.size()) return unknown;
    const bool all = std::all_of(elements->begin(), elements->end(), [](const auto& e) { return e.has_value(); });
    for (const auto& element : *elements) {
      const bool here = grows(step.after, at, growth);
      if (!all && (here || elements->size() > 1)) return unknown;
      auto number = all ? std::optional(static_cast<std::int64_t>(*element)) : std::nullopt;
      if (number == 0 && here != grows(step.before, at, growth)) return node.label() + " copies a dimension";
      if (here && *number > 0 && !(node.is("Expand") && number == 1)) {
        if (!growth.divides(*number)) return unknown;
        number = growth.grown(*number);
      }
      target.entries.push_back(number);
      ++at;
    }
  }
  if (at != step.after.axes.size()) return unknown;
  const auto [known, fresh] = targets_.emplace(&node, target);
  if (fresh) order_.push_back(&node);
  return fresh || known->second.entries == target.entries ? "" : node.label() + " is read in two ways";
}

std::string HeadGrowth::plan_split(const HeadStep& step, const Growth& growth) {
  Node& node = *step.node;
  const auto axis = axis_index(node.attr_int("axis", 0), step.before.axes.size());
  if (!axis) return node.label() + " is not understood";
  if (!grows(step.before, *axis, growth)) return {};
  auto sizes = node.attr_ints("split");
  const bool attribute = sizes.has_value();
  if (!sizes && node.input(1) == nullptr) return {};  // equal parts
  if (!sizes) sizes = int_constants(node.input(1));
  if (!sizes) return "the sizes of " + node.label() + " are computed";
  for (std::int64_t& size : *sizes) {
    if (!growth.divides(size)) return "the heads do not divide the parts of " + node.label();
    size = growth.grown(size);
  }
  return keep(node, attribute ? 0 : 1, *sizes);
}

std::string HeadGrowth::plan_slice(const HeadStep& step, const Growth& growth) {
  Node& node = *step.node;
  const std::string unknown = "the bounds of " + node.label() + " are not understood";
  const auto ranges = slice_ranges(node, numbers_);
  if (!ranges) return any_grows(step.before, growth) && node.input(3) == nullptr ? unknown : "";
  Entries starts, ends;
  bool here = false;
  for (const SliceRange& range : *ranges) {
    const auto axis = axis_index(range.axis, step.before.axes.size());
    if (!axis) return unknown;
    starts.push_back(range.start);
    ends.push_back(range.end);
    if (!grows(step.before, *axis, growth)) continue;
    here = true;
    const std::int64_t size = extent(step.before.axes[*axis]);
    for (std::int64_t* bound : {&starts.back(), &ends.back()}) {
      if (*bound < -size || *bound > size) continue;  // to the end
      if (!growth.divides(*bound)) return unknown;
      *bound = growth.grown(*bound);
    }
  }
  if (!here) return {};
  if (node.input(1) == nullptr || node.input(2) == nullptr) return unknown;
  std::string why = keep(node, 1, starts);
  return why.empty() ? keep(node, 2, ends) : why;
}

std::string HeadGrowth::plan_heads_attribute(Node& node, const Growth& growth) {
  const std::int64_t heads = node.attr_int("num_heads", 0);
  if (heads > 0 && !growth.divides(heads)) return node.label() + " has another number of heads";
  if (heads > 0) head_attributes_[&node] = growth.grown(heads);
  return {};
}

std::string HeadGrowth::plan_inner(Node& node, const HeadStep& step, const Growth& growth) {
  const int from_right = growing_axis(step.before, growth);
  if (from_right == 0) return "its heads cannot be followed";
  const std::size_t rank = step.before.axes.size(), axis = rank - static_cast<std::size_t>(from_right);
  if (node.output() != step.output) {
    unknown_.push_back(node.output());
    if (compute_) read_only_[node.output()].insert(axis);
  }
  if (node.is("RotaryEmbedding") || node.is("RotaryEmbedding", "com.microsoft")) {
    return plan_heads_attribute(node, growth);
  }
  const auto touches = [&](std::int64_t at) {
    const auto index = axis_index(at, rank);
    return !index || *index == axis;
  };
  if (is_norm_part(node)) {  // statistics of one head at a time
    const auto axes = axes_of(node, 1);
    const bool whole = node.op_type().starts_with("Reduce") && !axes;
    const bool last = !axes && !touches(node.attr_int("axis", -1));
    const bool clear = axes && std::none_of(axes->begin(), axes->end(), touches);
    return !whole && (last || clear) ? "" : node.label() + " joins the heads";
  }
  if (node.is("Cast") || node.is("Dropout") || (is_inner(node) && !node.is("Concat"))) return {};
  if (node.is("Concat") && !touches(node.attr_int("axis", 0))) return {};
  if (node.is("Split") && !touches(node.attr_int("axis", 0))) return {};
  if (node.is("Gather") && !touches(node.attr_int("axis", 0))) return {};
  if (node.is("Slice")) {
    const auto ranges = slice_ranges(node, numbers_);
    const bool clear = ranges && std::none_of(ranges->begin(), ranges->end(),
                                              [&](const SliceRange& range) { return touches(range.axis); });
    if (clear) return {};
  }
  if (node.is("Reshape") && node.input(1) != nullptr) {
    auto target = int_constants(node.input(1));
    const std::int64_t count = extent(step.before.axes[axis]);
    if (target && axis < target->size() && node.attr_int("allowzero", 0) == 0) {
      std::int64_t& entry = (*target)[axis];
      if (entry == 0) return {};
      if (entry == count && growth.divides(count)) {
        entry = growth.grown(entry);
        return keep(node, 1, *target);
      }
    }
    const auto elements = target || !compute_ ? std::nullopt : numbers_.elements(node.input(1));
    const bool counts = elements && axis < elements->size() && (*elements)[axis] == static_cast<double>(count);
    if (counts && growth.divides(count)) {
      corrected_.push_back({&node, {axis}, elements->size()});
      return {};
    }
  }
  return node.label() + " stands in the way of the heads";
}

// Entries of the target that are counts of what grows are multiplied when the model runs.
std::string HeadGrowth::plan_computed(const HeadStep& step, const Growth& growth) {
  Node& node = *step.node;
  if (node.input(1) == nullptr) return node.label() + " is not understood";
  const auto elements = numbers_.elements(node.input(1));
  std::set<std::size_t> axes;
  for (std::size_t i = 0; i < step.after.axes.size(); ++i) {
    const bool here = grows(step.after, i, growth);
    const auto number = elements && i < elements->size() ? ShapeArithmetic::integer((*elements)[i]) : std::nullopt;
    if (number == 0 && here != grows(step.before, i, growth)) return node.label() + " copies a dimension";
    if (!here) continue;
    if (number && *number > 0 && !growth.divides(*number))
      return "the heads do not divide the shape of " + node.label();
    axes.insert(i);
  }
  const auto known =
      std::find_if(corrected_.begin(), corrected_.end(), [&](const Corrected& each) { return each.node == &node; });
  if (known != corrected_.end()) return known->axes == axes ? "" : node.label() + " is read in two ways";
  corrected_.push_back({&node, axes, step.after.axes.size()});
  return {};
}

std::string HeadGrowth::check_shape_readers() {
  std::map<Value*, std::set<std::size_t>> all = read_only_;
  for (const auto& [value, axes] : growing_) {
    for (const auto& [axis, count] : axes) all[value].insert(axis);
  }
  for (const auto& [value, axes] : all) {
    for (const Use& use : value->uses()) {
      if (use.node == nullptr || !use.node->is("Shape")) continue;
      const std::string why = use.node->label() + " reads how many heads there are";
      if (use.node->graph() != value->graph() || !value->rank()) return why;
      if (const std::string problem = shape_reader(*use.node, axes); !problem.empty()) return problem;
    }
  }
  return {};
}

// Nothing to do where it reads other axes only.
std::string HeadGrowth::shape_reader(Node& shape, const std::set<std::size_t>& axes) {
  const std::string why = shape.label() + " reads how many heads there are";
  const auto rank = static_cast<std::int64_t>(*shape.input(0)->rank());
  const auto bound = [&](const char* name, std::int64_t fallback) {
    const std::int64_t at = shape.attr_int(name, fallback);
    return std::clamp<std::int64_t>(at < 0 ? at + rank : at, 0, rank);
  };
  const std::int64_t start = bound("start", 0), end = bound("end", rank);
  std::vector<std::size_t> entries;
  for (const std::size_t axis : axes) {
    const auto at = static_cast<std::int64_t>(axis);
    if (at >= start && at < end) entries.push_back(static_cast<std::size_t>(at - start));
  }
  if (entries.empty()) return {};
  bool elsewhere = true;
  for (const Use& reader : shape.output()->uses()) {
    const auto index = reader.node != nullptr && reader.node->is("Gather") && reader.index == 0
                           ? int_constants(reader.node->input(1))
                           : std::nullopt;
    elsewhere = elsewhere && index.has_value();
    for (const std::int64_t entry : index.value_or(Entries{})) {
      const auto at = axis_index(entry, static_cast<std::size_t>(end - start));
      elsewhere = elsewhere && at && std::find(entries.begin(), entries.end(), *at) == entries.end();
    }
  }
  if (elsewhere) return {};
  if (!compute_ || shape.output()->is_graph_output()) return why;
  shapes_kept_.emplace_back(&shape, entries);
  return {};
}

}  // namespace onnxfold
