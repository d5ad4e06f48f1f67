#include "analysis/calibrate/refit.h"

#include <algorithm>
#include <cmath>

#include "analysis/algebra/ridge.h"
#include "analysis/calibrate/statistics.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kEvery = 8;  // one sample in eight is held out

double dot(const Matrix& a, const Matrix& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.data.size(); ++i) sum += a.data[i] * b.data[i];
  return sum;
}

Matrix rows_where(const Matrix& matrix, const std::vector<char>& flags, bool wanted) {
  Matrix result(0, matrix.cols);
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    if ((flags[static_cast<std::size_t>(row)] != 0) != wanted) continue;
    const auto begin = matrix.data.begin() + row * matrix.cols;
    result.data.insert(result.data.end(), begin, begin + matrix.cols);
    ++result.rows;
  }
  return result;
}

double relative(double squares, double of) { return of > 0 ? std::sqrt(squares / of) : std::sqrt(squares); }

}  // namespace

void Regression::add(const Matrix& x, const Matrix& y) {
  if (x.rows == 0) return;
  add_gram(gram, x, x);
  add_gram(cross, x, y);
  target_squares += dot(y, y);
  rows += x.rows;
}

void Regression::add(const Regression& other) {
  if (other.rows == 0) return;
  gram = gram.empty() ? other.gram : sum(gram, other.gram);
  cross = cross.empty() ? other.cross : sum(cross, other.cross);
  target_squares += other.target_squares;
  rows += other.rows;
}

double Regression::error(const Matrix& weight) const {
  return std::max(0.0, dot(weight, product(gram, weight)) - 2 * dot(weight, cross) + target_squares);
}

std::vector<char> held_out_rows(std::int64_t rows, std::int64_t samples, std::int64_t first_sample,
                                std::int64_t all_samples) {
  std::vector<char> flags(static_cast<std::size_t>(rows), 0);
  for (std::int64_t row = 0; row < rows; ++row) {
    const bool held = all_samples < kEvery || samples <= 0
                          ? row >= rows - rows / kEvery
                          : (first_sample + row * samples / rows) % kEvery == kEvery - 1;
    flags[static_cast<std::size_t>(row)] = held ? 1 : 0;
  }
  return flags;
}

void SplitRegression::add(const Matrix& x, const Matrix& y, const std::vector<char>& held_out) {
  fit.add(rows_where(x, held_out, false), rows_where(y, held_out, false));
  check.add(rows_where(x, held_out, true), rows_where(y, held_out, true));
}

Result<Refit> refit(const SplitRegression& data, const Matrix& prior, std::span<const double> dampings) {
  Refit best{prior, false, 0, 0, 0, data.fit.rows + data.check.rows};
  if (data.check.rows == 0 || best.rows < 2 * prior.rows) return best;
  const double before = data.check.error(prior);
  best.error_before = best.error_after = relative(before, data.check.target_squares);
  double least = before * (1 - 1e-9);
  for (const double damping : dampings) {
    OF_ASSIGN(const Matrix tried, ridge_solve(data.fit.gram, data.fit.cross, damping, &prior));
    const double error = data.check.error(tried);
    if (!(error < least)) continue;
    least = error;
    best.accepted = true;
    best.damping = damping;
    best.error_after = relative(error, data.check.target_squares);
  }
  if (!best.accepted) return best;
  Regression all = data.fit;
  all.add(data.check);
  OF_ASSIGN(best.weight, ridge_solve(all.gram, all.cross, best.damping, &prior));
  return best;
}

namespace {

// Least held-out error by walking downhill from the middle: solving is most of the work.
struct Descent {
  std::size_t best = 0;
  double error = 0;
};

template <typename ErrorAt>
Result<Descent> descend(std::size_t count, ErrorAt error_at) {
  Descent found;
  found.best = count / 2;
  OF_ASSIGN(found.error, error_at(found.best));
  for (const int step : {-1, 1}) {
    bool moved = false;
    for (std::size_t at = found.best; step < 0 ? at > 0 : at + 1 < count;) {
      at = step < 0 ? at - 1 : at + 1;
      OF_ASSIGN(const double error, error_at(at));
      if (!(error < found.error)) break;
      found = {at, error};
      moved = true;
    }
    if (moved) break;
  }
  return found;
}

}  // namespace

Result<Refit> refit_left_over(const LeftOver& data, const Matrix& prior, std::span<const double> dampings) {
  const Regression &fit = data.moments.fit, &check = data.moments.check;
  Refit best{prior, false, 0, 0, 0, fit.rows + check.rows};
  if (check.rows == 0 || best.rows < 2 * prior.rows || dampings.empty()) return best;
  best.error_before = best.error_after = relative(check.target_squares, data.check_energy);
  if (!(best.error_before > 1e-6)) return best;
  OF_ASSIGN(const Descent found, descend(dampings.size(), [&](std::size_t i) -> Result<double> {
              OF_ASSIGN(const Matrix change, ridge_solve(fit.gram, fit.cross, dampings[i]));
              return check.error(change);
            }));
  if (!(found.error < check.target_squares * (1 - 1e-9))) return best;
  best.accepted = true;
  best.damping = dampings[found.best];
  best.error_after = relative(found.error, data.check_energy);
  Regression all = fit;
  all.add(check);
  OF_ASSIGN(const Matrix change, ridge_solve(all.gram, all.cross, best.damping));
  best.weight = sum(prior, change);
  return best;
}

std::span<const double> default_dampings() {
  static constexpr double kDampings[] = {1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1};
  return kDampings;
}

Matrix with_ones(const Matrix& x) {
  Matrix result(x.rows, x.cols + 1);
  for (std::int64_t row = 0; row < x.rows; ++row) {
    std::copy_n(x.data.begin() + row * x.cols, x.cols, result.data.begin() + row * result.cols);
    result.at(row, x.cols) = 1;
  }
  return result;
}

Matrix with_bias_row(const Matrix& weight, const std::vector<double>& bias) {
  Matrix result = weight;
  result.data.insert(result.data.end(), bias.begin(), bias.end());
  ++result.rows;
  return result;
}

}  // namespace onnxfold
