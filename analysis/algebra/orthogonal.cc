#include "analysis/algebra/orthogonal.h"

#include <algorithm>
#include <cmath>

#include "analysis/algebra/low_rank.h"

namespace onnxfold {
namespace {

// The reflection that takes the first axis to the direction of all ones; its own inverse.
Matrix ones_reflection(std::int64_t size) {
  const double n = static_cast<double>(size);
  std::vector<double> v(static_cast<std::size_t>(size), 1 / std::sqrt(n));
  v[0] -= 1;
  double squared = 0;
  for (const double x : v) squared += x * x;
  Matrix result = identity_matrix(size);
  if (squared == 0) return result;
  for (std::int64_t i = 0; i < size; ++i) {
    for (std::int64_t j = 0; j < size; ++j) {
      result.at(i, j) -= 2 * v[static_cast<std::size_t>(i)] * v[static_cast<std::size_t>(j)] / squared;
    }
  }
  return result;
}

}  // namespace

Matrix procrustes(const Matrix& cross) {
  const Svd parts = svd(cross);
  return product(parts.u, parts.v, false, true);
}

Matrix centred_procrustes(const Matrix& cross) {
  const std::int64_t size = cross.rows;
  const Matrix reflection = ones_reflection(size);
  const Matrix turned = product(product(reflection, cross), reflection);
  Matrix inner(size - 1, size - 1);
  for (std::int64_t i = 1; i < size; ++i) {
    for (std::int64_t j = 1; j < size; ++j) inner.at(i - 1, j - 1) = turned.at(i, j);
  }
  const Matrix best = procrustes(inner);
  Matrix whole = identity_matrix(size);
  for (std::int64_t i = 1; i < size; ++i) {
    for (std::int64_t j = 1; j < size; ++j) whole.at(i, j) = best.at(i - 1, j - 1);
  }
  return product(product(reflection, whole), reflection);
}

double nuclear_norm(const Matrix& matrix) {
  double sum = 0;
  for (const double x : svd(matrix).singular) sum += x;
  return sum;
}

Matrix permutation_matrix(const std::vector<std::int64_t>& column_of) {
  const auto size = static_cast<std::int64_t>(column_of.size());
  Matrix result(size, size);
  for (std::int64_t i = 0; i < size; ++i) result.at(i, column_of[static_cast<std::size_t>(i)]) = 1;
  return result;
}

void snap_to_permutation(Matrix& map) {
  constexpr double kRounding = 1e-9;
  const auto near = [](double x) { return std::abs(x) < kRounding || std::abs(x - 1) < kRounding; };
  if (!std::all_of(map.data.begin(), map.data.end(), near)) return;
  for (double& x : map.data) x = std::round(x);
}

}  // namespace onnxfold
