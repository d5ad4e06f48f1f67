#include "passes/cleanup/shapes.h"

#include <algorithm>
#include <numeric>

#include "ir/match.h"

namespace onnxfold {

bool same_dim(const Dim& a, const Dim& b) {
  if (a.known() && b.known()) return *a.value == *b.value;
  return !a.value && !b.value && !a.symbol.empty() && a.symbol == b.symbol;
}

bool same_shape(const Value& a, const Value& b, bool equal_counts) {
  if (!a.type().is_tensor() || !b.type().is_tensor() || !a.type().shape || !b.type().shape) return false;
  const std::vector<Dim>& left = *a.type().shape;
  const std::vector<Dim>& right = *b.type().shape;
  if (left.size() != right.size()) return false;
  int unproven = 0;
  bool positive = true;
  for (std::size_t i = 0; i < left.size(); ++i) {
    if (!same_dim(left[i], right[i])) {
      if (left[i].known() && right[i].known()) return false;
      ++unproven;
    } else if (!left[i].known() || *left[i].value == 0) {
      positive = false;
    }
  }
  return unproven == 0 || (equal_counts && unproven == 1 && positive);
}

std::optional<std::vector<std::int64_t>> stated_axes(const Node& node, std::size_t index) {
  if (auto axes = node.attr_ints("axes")) return axes;
  if (node.input(index) == nullptr) return std::vector<std::int64_t>{};
  return int_constants(node.input(index));
}

std::optional<std::vector<std::int64_t>> normalized_axes(std::vector<std::int64_t> axes, int rank) {
  for (std::int64_t& axis : axes) {
    if (axis < -rank || axis >= rank) return std::nullopt;
    if (axis < 0) axis += rank;
  }
  std::sort(axes.begin(), axes.end());
  if (std::adjacent_find(axes.begin(), axes.end()) != axes.end()) return std::nullopt;
  return axes;
}

std::optional<std::vector<std::int64_t>> permutation(const Node& transpose) {
  if (auto perm = transpose.attr_ints("perm")) {
    std::vector<std::int64_t> sorted = *perm;
    std::sort(sorted.begin(), sorted.end());
    for (std::size_t i = 0; i < sorted.size(); ++i) {
      if (sorted[i] != static_cast<std::int64_t>(i)) return std::nullopt;
    }
    return perm;
  }
  const Value* input = transpose.input(0);
  if (input == nullptr || !input->rank()) return std::nullopt;
  std::vector<std::int64_t> perm(static_cast<std::size_t>(*input->rank()));
  std::iota(perm.rbegin(), perm.rend(), 0);
  return perm;
}

std::optional<std::vector<std::int64_t>> reshape_target(const Type& from, const std::vector<Dim>& to) {
  std::vector<std::int64_t> target;
  bool positive = true;
  int inferred = 0;
  for (std::size_t i = 0; i < to.size(); ++i) {
    if (to[i].known()) {
      if (*to[i].value == 0) return std::nullopt;
      target.push_back(*to[i].value);
    } else if (from.shape && i < from.shape->size() && same_dim((*from.shape)[i], to[i])) {
      target.push_back(0);
      positive = false;
    } else {
      target.push_back(-1);
      ++inferred;
    }
  }
  if (inferred > 1 || (inferred == 1 && !positive)) return std::nullopt;
  return target;
}

}  // namespace onnxfold
