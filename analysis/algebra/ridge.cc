#include "analysis/algebra/ridge.h"

#include <fmt/format.h>

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>

#include "analysis/algebra/eigen_map.h"

namespace onnxfold {
namespace {

double mean_diagonal(const Matrix& gram) {
  double total = 0;
  for (std::int64_t i = 0; i < gram.rows; ++i) total += gram.at(i, i);
  return gram.rows == 0 ? 0 : total / static_cast<double>(gram.rows);
}

bool finite(const Matrix& matrix) {
  return std::all_of(matrix.data.begin(), matrix.data.end(), [](double x) { return std::isfinite(x); });
}

EigenRows damped(const Matrix& gram, double lambda) {
  EigenRows system = as_eigen(gram);
  system.diagonal().array() += lambda;
  return system;
}

// X'X of inputs that are all zero says nothing: any lambda keeps the prior then.
double lambda_of(const Matrix& gram, double damping) {
  const double scale = mean_diagonal(gram);
  return damping * (scale > 0 ? scale : 1);
}

Status check(const Matrix& gram, const Matrix& cross, double damping, const Matrix* prior) {
  if (gram.rows != gram.cols || gram.rows != cross.rows ||
      (prior != nullptr && (prior->rows != cross.rows || prior->cols != cross.cols))) {
    return fail(Code::kInvalidArgument,
                fmt::format("ridge: X'X is [{},{}], X'Y is [{},{}]", gram.rows, gram.cols, cross.rows, cross.cols));
  }
  if (!(damping >= 0)) return fail(Code::kInvalidArgument, fmt::format("ridge: damping {} is negative", damping));
  if (!finite(gram) || !finite(cross)) return fail(Code::kUnsupported, "ridge: the statistics hold NaN or Inf");
  return {};
}

}  // namespace

Result<Matrix> ridge_solve(const Matrix& gram, const Matrix& cross, double damping, const Matrix* prior) {
  OF_TRY(check(gram, cross, damping, prior));
  for (double tried = damping; tried <= 1; tried = std::max(tried * 10, 1e-10)) {
    const double lambda = lambda_of(gram, tried);
    const Eigen::LLT<EigenRows> factor(damped(gram, lambda));
    if (factor.info() != Eigen::Success) continue;
    EigenRows right = as_eigen(cross);
    if (prior != nullptr) right += lambda * as_eigen(*prior);
    const EigenRows solution = factor.solve(right);
    if (solution.allFinite()) return from_eigen(solution);
  }
  return fail(Code::kUnsupported, "ridge: the inputs are too nearly dependent to solve for a weight");
}

Result<Matrix> cholesky_factor(const Matrix& gram, double damping) {
  const Eigen::LLT<EigenRows> factor(damped(gram, lambda_of(gram, damping)));
  if (factor.info() != Eigen::Success) return fail(Code::kUnsupported, "the matrix is not positive definite");
  return from_eigen(factor.matrixL());
}

Result<Matrix> solve_positive(const Matrix& a, const Matrix& b) {
  const Eigen::LLT<EigenRows> factor(as_eigen(a));
  if (factor.info() != Eigen::Success) return fail(Code::kUnsupported, "the matrix is not positive definite");
  return from_eigen(factor.solve(as_eigen(b)));
}

}  // namespace onnxfold
