#include "analysis/algebra/column_removal.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/algebra/eigen_map.h"
#include "analysis/algebra/ridge.h"

namespace onnxfold {
namespace {

using Group = std::vector<std::int64_t>;

EigenRows block_of(const EigenRows& inverse, const Group& group) {
  const auto size = static_cast<Eigen::Index>(group.size());
  EigenRows block(size, size);
  for (Eigen::Index i = 0; i < size; ++i) {
    for (Eigen::Index j = 0; j < size; ++j) {
      block(i, j) = inverse(group[static_cast<std::size_t>(i)], group[static_cast<std::size_t>(j)]);
    }
  }
  return block;
}

EigenRows rows_of_group(const EigenRows& weight, const Group& group) {
  EigenRows rows(static_cast<Eigen::Index>(group.size()), weight.cols());
  for (std::size_t i = 0; i < group.size(); ++i) rows.row(static_cast<Eigen::Index>(i)) = weight.row(group[i]);
  return rows;
}

// trace(W_g' (H^-1_gg)^-1 W_g)
double cost_of(const EigenRows& inverse, const EigenRows& weight, const Group& group) {
  if (group.size() == 1) return weight.row(group[0]).squaredNorm() / inverse(group[0], group[0]);
  const EigenRows rows = rows_of_group(weight, group);
  return (rows.transpose() * block_of(inverse, group).ldlt().solve(rows)).trace();
}

void take_out(EigenRows& inverse, EigenRows& weight, const Group& group) {
  EigenRows columns(inverse.rows(), static_cast<Eigen::Index>(group.size()));
  for (std::size_t i = 0; i < group.size(); ++i) columns.col(static_cast<Eigen::Index>(i)) = inverse.col(group[i]);
  const EigenRows middle = block_of(inverse, group).ldlt().solve(EigenRows(columns.transpose()));  // [g, n]
  const EigenRows rows = rows_of_group(weight, group);
  weight.noalias() -= middle.transpose() * rows;
  inverse.noalias() -= columns * middle;
  for (const std::int64_t row : group) {
    weight.row(row).setZero();
    inverse.row(row).setZero();
    inverse.col(row).setZero();
  }
}

}  // namespace

Result<ColumnRemoval> removal_order(const Matrix& gram, const Matrix& weight, const std::vector<Group>& groups,
                                    std::int64_t most, double damping) {
  double lambda = 0;
  for (std::int64_t i = 0; i < gram.rows; ++i) lambda += gram.at(i, i);
  lambda = damping * (lambda > 0 ? lambda / static_cast<double>(gram.rows) : 1);
  EigenRows damped = as_eigen(gram);
  damped.diagonal().array() += lambda;
  const Eigen::LLT<EigenRows> factor(damped);
  if (factor.info() != Eigen::Success) return fail(Code::kUnsupported, "the moments are not positive definite");
  EigenRows inverse = factor.solve(EigenRows::Identity(gram.rows, gram.rows)), rest = as_eigen(weight);
  std::vector<char> gone(groups.size(), 0);
  ColumnRemoval removal;
  double error = 0;
  for (std::int64_t step = 0; step < std::min<std::int64_t>(most, static_cast<std::int64_t>(groups.size())); ++step) {
    std::size_t best = groups.size();
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < groups.size(); ++i) {
      if (gone[i] != 0) continue;
      const double cost = cost_of(inverse, rest, groups[i]);
      if (!(cost < least)) continue;
      least = cost;
      best = i;
    }
    if (best == groups.size()) break;
    gone[best] = 1;
    error += std::max(0.0, least);
    take_out(inverse, rest, groups[best]);
    removal.order.push_back(static_cast<std::int64_t>(best));
    removal.error.push_back(error);
  }
  return removal;
}

Matrix rows_at(const Matrix& matrix, const std::vector<std::int64_t>& rows) {
  Matrix result(static_cast<std::int64_t>(rows.size()), matrix.cols);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(matrix.data.begin() + rows[i] * matrix.cols, matrix.cols,
                result.data.begin() + static_cast<std::int64_t>(i) * matrix.cols);
  }
  return result;
}

Matrix columns_at(const Matrix& matrix, const std::vector<std::int64_t>& cols) {
  Matrix result(matrix.rows, static_cast<std::int64_t>(cols.size()));
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    for (std::size_t i = 0; i < cols.size(); ++i) {
      result.at(row, static_cast<std::int64_t>(i)) = matrix.at(row, cols[i]);
    }
  }
  return result;
}

Result<Matrix> refit_kept(const Matrix& gram, const Matrix& weight, const std::vector<std::int64_t>& kept,
                          double damping) {
  const Matrix rows = rows_at(gram, kept), prior = rows_at(weight, kept);
  return ridge_solve(columns_at(rows, kept), product(rows, weight), damping, &prior);
}

}  // namespace onnxfold
