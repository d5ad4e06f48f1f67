#include "passes/tie/shared_fit.h"

#include <algorithm>
#include <optional>

#include "analysis/algebra/ridge.h"

namespace onnxfold {
namespace {

Matrix damped(const Matrix& gram, double damping) {
  Matrix result = gram;
  double trace = 0;
  for (std::int64_t i = 0; i < gram.rows; ++i) trace += gram.at(i, i);
  // Inputs that are zero everywhere leave no scale of their own.
  const double extra = trace > 0 ? damping * trace / static_cast<double>(gram.rows) : 1;
  for (std::int64_t i = 0; i < gram.rows; ++i) result.at(i, i) += extra;
  return result;
}

// A round that takes away less than this share of the error is the last.
constexpr double kWorthARound = 1e-3;

void add(Matrix& to, const Matrix& matrix, double factor) {
  for (std::size_t i = 0; i < to.data.size(); ++i) to.data[i] += factor * matrix.data[i];
}

// A few rows at a time: the product is as large as the weight.
void subtract_correction(Matrix& from, const LowRank& correction) {
  constexpr std::int64_t kRows = 512;
  const Matrix &a = correction.a, &b = correction.b;
  for (std::int64_t begin = 0; a.cols > 0 && begin < a.rows; begin += kRows) {
    const std::int64_t count = std::min(kRows, a.rows - begin);
    const auto first = a.data.begin() + begin * a.cols;
    const Matrix part = product(Matrix(count, a.cols, {first, first + count * a.cols}), b);
    for (std::size_t i = 0; i < part.data.size(); ++i) {
      from.data[static_cast<std::size_t>(begin * from.cols) + i] -= part.data[i];
    }
  }
}

}  // namespace

Result<SharedFitter> SharedFitter::create(std::vector<Matrix> weights, const std::vector<const Matrix*>& grams,
                                          double damping) {
  const std::size_t count = weights.size();
  const auto load = [held = std::move(weights)](std::size_t index) -> Result<Matrix> { return held[index]; };
  return create(count, load, grams, damping);
}

Result<SharedFitter> SharedFitter::create(std::size_t count, WeightLoader load, const std::vector<const Matrix*>& grams,
                                          double damping) {
  SharedFitter fitter;
  fitter.count_ = count;
  fitter.load_ = std::move(load);
  for (const Matrix* gram : grams) {
    Matrix square = damped(*gram, damping);
    Result<Matrix> factor = cholesky_factor(square, 0);
    for (double more = std::max(damping, 1e-6) * 10; !factor && more <= 1; more *= 10) {
      square = damped(*gram, more);
      factor = cholesky_factor(square, 0);
    }
    if (!factor) return fail(factor.error());
    fitter.total_ = fitter.total_.empty() ? square : sum(fitter.total_, square);
    fitter.grams_.push_back(std::move(square));
    fitter.factors_.push_back(std::move(*factor));
  }
  for (std::size_t l = 0; l < count; ++l) {
    OF_ASSIGN(const Matrix weight, fitter.weight(l));
    const double norm = frobenius_norm(grams.empty() ? weight : product(fitter.factors_[l], weight, true));
    fitter.energy_ += norm * norm;
  }
  return fitter;
}

Result<Matrix> SharedFitter::average() const {
  OF_ASSIGN(Matrix mean, weight(0));
  for (std::size_t l = 1; l < count_; ++l) {
    OF_ASSIGN(const Matrix next, weight(l));
    add(mean, next, 1);
  }
  for (double& number : mean.data) number /= static_cast<double>(count_);
  return mean;
}

Result<Matrix> SharedFitter::weighted_mean() const { return mean_without({}); }

Result<Matrix> SharedFitter::mean_without(const std::vector<LowRank>& corrections) const {
  Matrix all;
  for (std::size_t l = 0; l < count_; ++l) {
    OF_ASSIGN(Matrix rest, weight(l));
    if (l < corrections.size()) subtract_correction(rest, corrections[l]);
    if (weighted()) rest = product(grams_[l], rest);
    if (all.empty()) {
      all = std::move(rest);
    } else {
      add(all, rest, 1);
    }
  }
  if (weighted()) return solve_positive(total_, all);
  for (double& number : all.data) number /= static_cast<double>(count_);
  return all;
}

Result<Matrix> SharedFitter::residual(std::size_t index, const Matrix& shared) const {
  OF_ASSIGN(Matrix rest, weight(index));
  add(rest, shared, -1);
  return rest;
}

Result<double> SharedFitter::error_of(const SharedFit& fit) const {
  double error = 0;
  for (std::size_t l = 0; l < count_; ++l) {
    OF_ASSIGN(Matrix rest, residual(l, fit.shared));
    subtract_correction(rest, fit.corrections[l]);
    const double norm = frobenius_norm(weighted() ? product(factors_[l], rest, true) : rest);
    error += norm * norm;
  }
  return error;
}

Result<SharedFit> SharedFitter::correct(Matrix shared, std::int64_t rank, bool plain) const {
  SharedFit fit{std::move(shared), std::vector<LowRank>(count_), 0, {}};
  const bool whitened = weighted() && !plain;
  for (std::size_t l = 0; rank > 0 && l < count_; ++l) {
    OF_ASSIGN(const Matrix rest, residual(l, fit.shared));
    LowRank& correction = fit.corrections[l];
    correction = projected_low_rank(rest, whitened ? &factors_[l] : nullptr, rank);
    for (auto k = static_cast<std::size_t>(rank); k < correction.singular.size(); ++k) {
      fit.error += correction.singular[k] * correction.singular[k];
    }
  }
  // The tail is the error in the norm that the SVD was made in.
  if (rank == 0 || whitened != weighted()) {
    OF_ASSIGN(fit.error, error_of(fit));
  }
  return fit;
}

Result<SharedFit> SharedFitter::improve(SharedFit fit, std::int64_t rank, int rounds) const {
  for (int round = 0; round < rounds; ++round) {
    OF_ASSIGN(Matrix mean, mean_without(fit.corrections));
    OF_ASSIGN(SharedFit next, correct(std::move(mean), rank));
    const bool done = next.error >= fit.error * (1 - kWorthARound);
    if (next.error < fit.error) fit = std::move(next);
    if (done) break;
  }
  return fit;
}

Result<SharedFit> SharedFitter::alternate(Matrix start, std::int64_t rank, int rounds) const {
  OF_ASSIGN(SharedFit first, correct(std::move(start), rank));
  return improve(std::move(first), rank, rounds);
}

Result<LowRank> SharedFitter::difference_of_two(std::int64_t rank) const {
  std::optional<Matrix> factor;
  if (weighted()) {
    OF_ASSIGN(factor, cholesky_factor(total_, 0));
  }
  OF_ASSIGN(Matrix difference, weight(0));
  {
    OF_ASSIGN(const Matrix second, weight(1));
    add(difference, second, -1);
  }
  return projected_low_rank(difference, factor ? &*factor : nullptr, rank);
}

Result<SharedFit> SharedFitter::closed_form(std::int64_t rank, int rounds) const {
  OF_ASSIGN(const LowRank both, difference_of_two(2 * rank));
  SharedFit fit;
  for (std::int64_t which = 0; which < 2; ++which) {
    const std::int64_t count = (both.a.cols + 1 - which) / 2;
    LowRank part{Matrix(both.a.rows, count), Matrix(count, both.b.cols), both.singular};
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t from = 2 * k + which;
      for (std::int64_t row = 0; row < both.a.rows; ++row) {
        part.a.at(row, k) = which == 0 ? both.a.at(row, from) : -both.a.at(row, from);
      }
      for (std::int64_t col = 0; col < both.b.cols; ++col) part.b.at(k, col) = both.b.at(from, col);
    }
    fit.corrections.push_back(std::move(part));
  }
  OF_ASSIGN(fit.shared, mean_without(fit.corrections));
  OF_ASSIGN(fit.error, error_of(fit));
  if (!weighted()) return fit;
  // Where the inputs differ much, one norm for both is no good.
  OF_ASSIGN(Matrix mean, weighted_mean());
  OF_ASSIGN(SharedFit split, correct(fit.shared, rank));
  OF_ASSIGN(SharedFit from_mean, correct(std::move(mean), rank));
  return improve(split.error < from_mean.error ? std::move(split) : std::move(from_mean), rank, rounds);
}

}  // namespace onnxfold
