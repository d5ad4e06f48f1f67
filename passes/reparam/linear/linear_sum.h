// Sums of rows in which several summands are affine maps of one value: they can be one Linear.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "passes/reparam/linear/affine_term.h"

namespace onnxfold {

struct Summand {
  AffineTerm term;
  double sign = 1;
};

struct LinearSum {
  Node* root = nullptr;  // makes the sum
  std::int64_t width = 0;
  std::vector<Summand> terms;
};

// The sum that `root` (Add, Sub or Sum of values that are not constant) completes: operands that are such sums
// themselves and have no other reader are opened. Nullopt when a sum that is read by nothing else goes on after `root`,
// or when the width of its rows is not known.
std::optional<LinearSum> linear_sum(Node& root);

// Summands that read `input` through `counts` of their steps.
struct SumGroup {
  Value* input = nullptr;
  std::vector<std::size_t> members;  // places among the terms
  std::vector<std::size_t> counts;   // steps of each
  std::int64_t chained = 0;          // members of two or more Linears
};

// The largest group of one input, at least one member a single Linear, no member of more than `max_linears`, whose
// merging takes away nodes and adds no multiply-adds. `max_growth`: bytes of shared weights that may be copied; `why`
// says so where that stood in the way.
std::optional<SumGroup> best_group(const LinearSum& sum, std::int64_t max_linears, std::int64_t max_growth,
                                   std::string& why);

// Puts one Linear and the remaining summands in the place of the sum. Value: false when a number does not fit its type.
Result<bool> merge_group(Graph& graph, const LinearSum& sum, const SumGroup& group);

}  // namespace onnxfold
