// Which choice for each of many items, so that all fit into a budget and the sum of damages is least (multiple-choice
// knapsack): formats of weights under the size of a file.
#pragma once

#include <cstdint>
#include <vector>

#include "ir/result.h"

namespace onnxfold {

struct FormatChoice {
  std::int64_t bytes = 0;
  double damage = 0;
};

// One index into each item's choices. Greedy on the lower convex hulls of (bytes, damage), then single changes while
// any helps and fits: the sum exceeds the least one by at most the largest step of one hull. Ties go to the first item
// and the smaller choice. REQUIRES: every item has a choice. Errors: invalid_argument, naming the least size, when even
// the smallest choices exceed the budget.
Result<std::vector<std::size_t>> allocate_formats(const std::vector<std::vector<FormatChoice>>& items,
                                                  std::int64_t budget);

}  // namespace onnxfold
