// A value as a sum of branches: y[c] = sum over terms of scale[c] * term[c], plus shift[c], over channel axis 1.
#pragma once

#include <optional>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

struct BranchTerm {
  Value* value = nullptr;
  std::vector<double> scale;
  bool only_here = false;  // nothing but the sum reads it
};

struct BranchSum {
  std::vector<BranchTerm> terms;  // different values
  std::vector<double> shift;
  std::int64_t passes = 0;  // operations over all elements that the sum takes now: two for the sum of three values
};

// Follows Add, Sub, Sum, Mean, Neg, BatchNormalization and arithmetic with one constant per channel from `root`
// upwards, through values that nothing else reads. All values must have the same known rank and number of channels.
// Nullopt when `root` is no such node.
std::optional<BranchSum> branch_sum(const Node& root);

}  // namespace onnxfold
