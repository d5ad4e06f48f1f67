// AxisGroups: which axes of which constants hold the same neurons.
//
// The channels of a residual stream, of a hidden layer, of a chain of convolutions: reordering them in every constant
// of a group leaves the function as it is. Found by walking the graph forwards: Linears, convolutions, norms,
// element-wise operators, what moves elements. Inside attention heads nothing is followed (the Attention knows them);
// what is not understood, and inputs and outputs of the model, hold their axes fixed.
#pragma once

#include <cstdint>
#include <vector>

#include "analysis/structure/attention.h"
#include "ir/graph.h"

namespace onnxfold {

struct AxisPlace {
  Value* value = nullptr;
  int axis = 0;
};

struct AxisGroup {
  std::int64_t size = 0;
  // Element-wise operators, gains per channel or several branches stand in the way of anything but a permutation.
  // Otherwise any orthogonal map commutes; with `centred` (LayerNorm) only those that keep the vector of ones.
  bool permutation_only = false;
  bool centred = false;
  std::vector<AxisPlace> constants;  // at least one, in topological order
  std::vector<AxisPlace> values;     // computed values with these neurons, in topological order
};

struct AxisGroups {
  std::vector<AxisGroup> groups;      // of free axes only, in order of their first constants
  std::vector<Attention> attentions;  // of the graph, for what is inside of them
};

// Types must have been inferred. A constant that is read in two roles is in both, so that groups with it may have
// become one: unshare constants first where that is not meant.
AxisGroups find_axis_groups(const Graph& graph);

}  // namespace onnxfold
