// The assignment problem: which row goes with which column so that the sum is largest.
#pragma once

#include <cstdint>
#include <vector>

#include "analysis/algebra/matrix.h"

namespace onnxfold {

// Shortest augmenting paths with dual variables (Jonker and Volgenant, 1987), O(n^3). `value` is square. Result: the
// column of every row. Ties go to the lower column.
std::vector<std::int64_t> best_assignment(const Matrix& value);

}  // namespace onnxfold
