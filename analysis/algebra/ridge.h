// Ridge regression from second moments.
//
//   W = argmin ||X W - Y||^2 + lambda ||W - P||^2 = (G + lambda I)^-1 (C + lambda P),   G = X'X [in, in], C = X'Y [in,
//   out]
//
// with lambda = damping * mean(diag G), so that `damping` has no unit. Toward zero when no prior is given. Cholesky in
// double; a matrix that is not positive definite even then gets ten times the damping until it is (at most 1).
#pragma once

#include <optional>

#include "analysis/algebra/matrix.h"
#include "ir/result.h"

namespace onnxfold {

// Errors: invalid_argument, when dimensions do not match or damping is negative; unsupported, when G holds NaN or Inf.
Result<Matrix> ridge_solve(const Matrix& gram, const Matrix& cross, double damping, const Matrix* prior = nullptr);

// Lower Cholesky factor L of gram + damping * mean(diag gram) * I (L L' = it). Errors: unsupported, when it is not
// positive definite.
Result<Matrix> cholesky_factor(const Matrix& gram, double damping);
// A^-1 B for symmetric positive definite A. Errors: unsupported, when it is not.
Result<Matrix> solve_positive(const Matrix& a, const Matrix& b);

}  // namespace onnxfold
