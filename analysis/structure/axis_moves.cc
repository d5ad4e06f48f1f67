#include "analysis/structure/axis_moves.h"

#include <algorithm>
#include <array>

#include "analysis/structure/correspondence.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr std::array<std::string_view, 4> kPooling = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"};
constexpr std::array<std::string_view, 6> kReshaping = {"Reshape",   "Flatten", "Squeeze",
                                                        "Unsqueeze", "Expand",  "Slice"};

void pass_pool(const Node& node, AxisLabels& axes) {
  const Labels from = axes.labels(*node.input(0));
  if (from.size() < 3) return axes.give_up(node);
  for (std::size_t i = 2; i < from.size(); ++i) axes.fix_label(from[i]);
  Labels to(from.size(), kFixed);
  to[1] = from[1];
  to[0] = from[0];
  if (node.is("MaxPool") || node.is("GlobalMaxPool")) axes.pointwise({to[1]});
  axes.set(node.output(), std::move(to));
}

void pass_transpose(const Node& node, AxisLabels& axes) {
  const Labels from = axes.labels(*node.input(0));
  // The Linear behind it reads the constant itself.
  if (parameter(node.input(0)) != nullptr) return;
  Labels to(from.rbegin(), from.rend());
  if (const auto perm = node.attr_ints("perm"); perm && perm->size() == from.size()) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = from[static_cast<std::size_t>((*perm)[i])];
  }
  axes.set(node.output(), std::move(to));
}

std::int64_t elements(std::vector<std::int64_t>::const_iterator begin, std::vector<std::int64_t>::const_iterator end) {
  std::int64_t count = 1;
  for (; begin != end; ++begin) count = *begin < 0 || count < 0 ? -1 : count * *begin;
  return count;
}
bool same_elements(const std::vector<std::int64_t>& a, std::size_t i, const std::vector<std::int64_t>& b,
                   std::size_t j) {
  const auto at = [](const std::vector<std::int64_t>& dims, std::size_t k) {
    return dims.begin() + static_cast<std::ptrdiff_t>(k);
  };
  const std::int64_t right = elements(at(a, i + 1), a.end()), left = elements(a.begin(), at(a, i));
  if (right >= 0 && right == elements(at(b, j + 1), b.end())) return true;
  return left >= 0 && left == elements(b.begin(), at(b, j));
}
bool forward_slice(const Node& node) {
  if (node.input(4) == nullptr) return true;
  const auto steps = int_constants(node.input(4));
  return steps && std::all_of(steps->begin(), steps->end(), [](std::int64_t step) { return step > 0; });
}

// An axis survives when it has its size and as many elements (or the same axes) to its right or left.
void pass_reshape(const Node& node, AxisLabels& axes) {
  const Labels from = axes.labels(*node.input(0));
  const std::vector<std::int64_t> before = dims_of(*node.input(0)), after = dims_of(*node.output());
  Labels to(after.size(), kFixed);
  const bool slices = node.is("Slice");
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (from[i] == kFixed) continue;
    int found = -1;
    for (std::size_t j = 0; j < after.size() && before[i] > 1; ++j) {
      if (after[j] != before[i] || to[j] != kFixed) continue;
      if (slices || node.is("Expand") ? after.size() - j == before.size() - i : same_elements(before, i, after, j)) {
        found = static_cast<int>(j);
        break;
      }
    }
    if (found < 0 || (slices && !forward_slice(node))) {
      axes.fix_label(from[i]);
    } else {
      to[static_cast<std::size_t>(found)] = from[i];
    }
  }
  axes.set(node.output(), std::move(to));
}

void pass_concat(const Node& node, AxisLabels& axes) {
  Labels to;
  const auto rank = static_cast<std::int64_t>(dims_of(*node.output()).size());
  const std::int64_t axis = node.attr_int("axis", 0);
  const auto along = static_cast<std::size_t>(axis < 0 ? axis + rank : axis);
  for (const Value* input : node.inputs()) {
    const Labels from = axes.labels(*input);
    if (static_cast<std::int64_t>(from.size()) != rank) return axes.give_up(node);
    if (to.empty()) {
      to = from;
    } else {
      for (std::size_t i = 0; i < from.size(); ++i) {
        if (i != along && (to[i] != kFixed || from[i] != kFixed)) to[i] = axes.join(to[i], from[i]);
      }
    }
    axes.fix_label(from[along]);
  }
  if (along < to.size()) to[along] = kFixed;
  axes.set(node.output(), std::move(to));
}

void pass_gather(const Node& node, AxisLabels& axes) {
  const Labels from = axes.labels(*node.input(0));
  const std::size_t extra = dims_of(*node.input(1)).size();
  const std::int64_t axis = node.attr_int("axis", 0);
  const auto along = static_cast<std::size_t>(axis < 0 ? axis + static_cast<std::int64_t>(from.size()) : axis);
  if (along >= from.size()) return axes.give_up(node);
  axes.fix_label(from[along]);
  Labels to(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(along));
  to.insert(to.end(), extra, kFixed);
  to.insert(to.end(), from.begin() + static_cast<std::ptrdiff_t>(along) + 1, from.end());
  axes.set(node.output(), std::move(to));
}

// Over other axes than that of the channels.
void pass_reduce(const Node& node, AxisLabels& axes) {
  const Labels from = axes.labels(*node.input(0));
  std::vector<std::int64_t> over;
  if (const auto given = node.attr_ints("axes")) over = *given;
  if (const auto given = node.input(1) == nullptr ? std::nullopt : int_constants(node.input(1))) over = *given;
  if (over.empty()) return axes.give_up(node);
  std::vector<bool> reduced(from.size(), false);
  for (const std::int64_t axis : over) {
    const std::int64_t at = axis < 0 ? axis + static_cast<std::int64_t>(from.size()) : axis;
    if (at < 0 || at >= static_cast<std::int64_t>(from.size())) return axes.give_up(node);
    reduced[static_cast<std::size_t>(at)] = true;
  }
  const bool keeps = node.attr_int("keepdims", 1) != 0;
  Labels to;
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (reduced[i]) axes.fix_label(from[i]);
    if (!reduced[i] || keeps) to.push_back(reduced[i] ? kFixed : from[i]);
  }
  if (!node.is("ReduceMean") && !node.is("ReduceSum")) axes.pointwise(to);
  axes.set(node.output(), std::move(to));
}

bool is_reduction(const Node& node) { return node.op_type().rfind("Reduce", 0) == 0; }

}  // namespace

bool moves_axes(const Node& node) {
  return one_of(node, kPooling) || node.is("Transpose") || one_of(node, kReshaping) || node.is("Concat") ||
         node.is("Gather") || is_reduction(node);
}

void pass_moved(const Node& node, AxisLabels& axes) {
  if (one_of(node, kPooling)) return pass_pool(node, axes);
  if (node.is("Transpose")) return pass_transpose(node, axes);
  if (one_of(node, kReshaping)) return pass_reshape(node, axes);
  if (node.is("Concat")) return pass_concat(node, axes);
  if (node.is("Gather")) return pass_gather(node, axes);
  pass_reduce(node, axes);
}

}  // namespace onnxfold
