// Questions about shapes and axes that several clean-up passes ask.
#pragma once

#include <optional>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

// Two dimensions that are equal in every run: the same number or the same symbol.
bool same_dim(const Dim& a, const Dim& b);
// Both shapes are known and equal in every run. One dimension may be unproven when `equal_counts` says that the values
// have the same number of elements and all other dimensions are known and positive.
bool same_shape(const Value& a, const Value& b, bool equal_counts = false);

// Axes of a node that states them as attribute "axes" or, in later opsets, as input `index`. Empty list: none stated.
// Nullopt when they are an input that is not constant.
std::optional<std::vector<std::int64_t>> stated_axes(const Node& node, std::size_t index);
// Sorted, counted from the front. Nullopt when one is outside [-rank, rank) or stated twice.
std::optional<std::vector<std::int64_t>> normalized_axes(std::vector<std::int64_t> axes, int rank);
// The permutation of a Transpose, the default (reversal) written out. Nullopt when the rank is unknown or it is
// malformed.
std::optional<std::vector<std::int64_t>> permutation(const Node& transpose);

// A constant Reshape target that turns a value of type `from` into the shape of `to`: known dimensions as numbers, a
// dimension equal to the input's at the same place as 0, and at most one -1, which is used only when every other entry
// is a known positive number (with a 0 in it, an empty tensor would make -1 ambiguous). Nullopt when there is none.
std::optional<std::vector<std::int64_t>> reshape_target(const Type& from, const std::vector<Dim>& to);

}  // namespace onnxfold
