#include "analysis/algebra/low_rank.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "analysis/algebra/eigen_map.h"
#include "analysis/algebra/ridge.h"

namespace onnxfold {
namespace {

void fix_signs(EigenRows& u, EigenRows& v) {
  for (Eigen::Index col = 0; col < u.cols(); ++col) {
    Eigen::Index largest = 0;
    u.col(col).cwiseAbs().maxCoeff(&largest);
    if (u(largest, col) >= 0) continue;
    u.col(col) *= -1;
    v.col(col) *= -1;
  }
}

LowRank cut(const Svd& full, std::int64_t rank) {
  const std::int64_t r = std::min<std::int64_t>(rank, static_cast<std::int64_t>(full.singular.size()));
  LowRank result{Matrix(full.u.rows, r), Matrix(r, full.v.rows), full.singular};
  for (std::int64_t k = 0; k < r; ++k) {
    const double scale = full.singular[static_cast<std::size_t>(k)];
    for (std::int64_t row = 0; row < full.u.rows; ++row) result.a.at(row, k) = full.u.at(row, k) * scale;
    for (std::int64_t col = 0; col < full.v.rows; ++col) result.b.at(k, col) = full.v.at(col, k);
  }
  return result;
}

struct Leading {
  EigenRows vectors;             // [n, rank], by falling eigenvalue
  std::vector<double> singular;  // all roots of eigenvalues
};

Leading leading(const EigenRows& gram, std::int64_t rank) {
  const Eigen::SelfAdjointEigenSolver<EigenRows> solver(gram);
  const Eigen::Index n = gram.rows(), r = std::min<Eigen::Index>(rank, n);
  Leading result{EigenRows(n, r), {}};
  for (Eigen::Index k = 0; k < n; ++k) {
    result.singular.push_back(std::sqrt(std::max(0.0, solver.eigenvalues()(n - 1 - k))));
    if (k < r) result.vectors.col(k) = solver.eigenvectors().col(n - 1 - k);
  }
  return result;
}

// Equal norms of a column and its row: what rounding to half and low bits wants; and the fixed sign.
void balance(EigenRows& a, EigenRows& b) {
  for (Eigen::Index k = 0; k < a.cols(); ++k) {
    const double in = a.col(k).norm(), out = b.row(k).norm();
    double scale = in > 0 && out > 0 ? std::sqrt(out / in) : 1;
    Eigen::Index largest = 0;
    a.col(k).cwiseAbs().maxCoeff(&largest);
    if (a(largest, k) < 0) scale = -scale;
    a.col(k) *= scale;
    b.row(k) /= scale;
  }
}

}  // namespace

Svd svd(const Matrix& matrix) {
  const Eigen::BDCSVD<EigenRows> decomposition(as_eigen(matrix), Eigen::ComputeThinU | Eigen::ComputeThinV);
  EigenRows u = decomposition.matrixU(), v = decomposition.matrixV();
  fix_signs(u, v);
  const Eigen::VectorXd& values = decomposition.singularValues();
  return {from_eigen(u), std::vector<double>(values.data(), values.data() + values.size()), from_eigen(v)};
}

LowRank low_rank(const Matrix& weight, std::int64_t rank) { return cut(svd(weight), rank); }

Result<LowRank> whitened_low_rank(const Matrix& weight, const Matrix& gram, std::int64_t rank, double damping) {
  Result<Matrix> factor = cholesky_factor(gram, damping);
  for (double tried = damping; !factor && tried < 1; factor = cholesky_factor(gram, tried)) {
    tried = std::max(tried * 10, 1e-10);
  }
  if (!factor) return fail(factor.error());
  LowRank result = cut(svd(product(*factor, weight, true)), rank);
  if (rank == 0) return result;
  const EigenRows a =
      as_eigen(*factor).transpose().template triangularView<Eigen::Upper>().solve(EigenRows(as_eigen(result.a)));
  result.a = from_eigen(a);
  return result;
}

void orthonormalize(Matrix& a, Matrix& b) {
  if (a.cols == 0) return;
  const Eigen::HouseholderQR<EigenRows> split(as_eigen(a));
  const EigenRows rotated = split.householderQ() * EigenRows::Identity(a.rows, a.cols);
  const EigenRows upper = split.matrixQR().topRows(a.cols).template triangularView<Eigen::Upper>();
  b = product(from_eigen(upper), b);
  a = from_eigen(rotated);
}

LowRank projected_low_rank(const Matrix& weight, const Matrix* factor, std::int64_t rank) {
  const Matrix product_of_both = factor == nullptr ? Matrix() : product(*factor, weight, true);
  const Matrix& moved = factor == nullptr ? weight : product_of_both;
  const bool wide = weight.rows <= weight.cols;
  const Matrix gram = product(moved, moved, !wide, wide);
  Leading found = leading(as_eigen(gram), rank);
  EigenRows a, b;
  const Matrix vectors = from_eigen(found.vectors);
  if (wide) {
    b = as_eigen(product(vectors, moved, true));
    a = found.vectors;
    if (factor != nullptr && rank > 0)
      as_eigen(*factor).transpose().template triangularView<Eigen::Upper>().solveInPlace(a);
  } else {
    a = as_eigen(product(weight, vectors));
    b = found.vectors.transpose();
  }
  balance(a, b);
  return {from_eigen(a), from_eigen(b), std::move(found.singular)};
}

}  // namespace onnxfold
