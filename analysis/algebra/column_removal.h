// Which inputs of a linear map can go, and what the map must be without them (optimal brain surgeon on whole inputs).
//
// Removing input j of y = x W, the other rows of W changed as is best, adds to ||X W - X W'||^2 exactly
//   e_j = ||W_j||^2 / [H^-1]_jj,   W' = W - H^-1_:j W_j / [H^-1]_jj,   H = X'X + damping
// (OBC, arXiv 2208.11580; ZipLM, arXiv 2302.04089), so inputs go one after the other, each time the cheapest.
#pragma once

#include <cstdint>
#include <vector>

#include "analysis/algebra/matrix.h"
#include "ir/result.h"

namespace onnxfold {

struct ColumnRemoval {
  std::vector<std::int64_t> order;  // indices of the groups that go, the cheapest first
  std::vector<double> error;        // ||X W - X W'||^2 behind each step
};

// Takes out groups of inputs (a neuron: one; a head: its width) until `most` are gone. Rows that are in no group are
// never taken out. Errors: unsupported, when the moments are not positive definite even when damped.
Result<ColumnRemoval> removal_order(const Matrix& gram, const Matrix& weight,
                                    const std::vector<std::vector<std::int64_t>>& groups, std::int64_t most,
                                    double damping = 1e-4);

// Least squares on the rows that are kept: (H_SS)^-1 H_S: W, damped toward the weight's own rows.
Result<Matrix> refit_kept(const Matrix& gram, const Matrix& weight, const std::vector<std::int64_t>& kept,
                          double damping = 1e-4);
Matrix rows_at(const Matrix& matrix, const std::vector<std::int64_t>& rows);
Matrix columns_at(const Matrix& matrix, const std::vector<std::int64_t>& cols);

}  // namespace onnxfold
