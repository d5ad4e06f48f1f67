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

Matrix correction_of(const LowRank& correction) { return product(correction.a, correction.b); }

bool has_rank(const LowRank& correction) { return correction.a.cols > 0; }

}  // namespace

Result<SharedFitter> SharedFitter::create(std::vector<Matrix> weights, const std::vector<const Matrix*>& grams,
                                          double damping) {
  SharedFitter fitter;
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
  fitter.weights_ = std::move(weights);
  for (std::size_t l = 0; l < fitter.weights_.size(); ++l) {
    const Matrix& weight = fitter.weights_[l];
    const double norm = frobenius_norm(grams.empty() ? weight : product(fitter.factors_[l], weight, true));
    fitter.energy_ += norm * norm;
  }
  return fitter;
}

Matrix SharedFitter::average() const {
  Matrix mean = weights_[0];
  for (std::size_t l = 1; l < weights_.size(); ++l) mean = sum(mean, weights_[l]);
  for (double& number : mean.data) number /= static_cast<double>(weights_.size());
  return mean;
}

Result<Matrix> SharedFitter::weighted_mean() const { return mean_without({}); }

Result<Matrix> SharedFitter::mean_without(const std::vector<LowRank>& corrections) const {
  Matrix all;
  for (std::size_t l = 0; l < weights_.size(); ++l) {
    Matrix rest = weights_[l];
    if (l < corrections.size() && has_rank(corrections[l])) rest = sum(rest, correction_of(corrections[l]), -1);
    if (weighted()) rest = product(grams_[l], rest);
    all = all.empty() ? std::move(rest) : sum(all, rest);
  }
  if (weighted()) return solve_positive(total_, all);
  for (double& number : all.data) number /= static_cast<double>(weights_.size());
  return all;
}

double SharedFitter::error_of(const SharedFit& fit) const {
  double error = 0;
  for (std::size_t l = 0; l < weights_.size(); ++l) {
    Matrix rest = sum(weights_[l], fit.shared, -1);
    if (has_rank(fit.corrections[l])) rest = sum(rest, correction_of(fit.corrections[l]), -1);
    const double norm = frobenius_norm(weighted() ? product(factors_[l], rest, true) : rest);
    error += norm * norm;
  }
  return error;
}

SharedFit SharedFitter::correct(const Matrix& shared, std::int64_t rank, bool plain) const {
  SharedFit fit{shared, std::vector<LowRank>(weights_.size()), 0, {}};
  const bool whitened = weighted() && !plain;
  for (std::size_t l = 0; rank > 0 && l < weights_.size(); ++l) {
    const Matrix rest = sum(weights_[l], shared, -1);
    LowRank& correction = fit.corrections[l];
    correction = projected_low_rank(rest, whitened ? &factors_[l] : nullptr, rank);
    for (auto k = static_cast<std::size_t>(rank); k < correction.singular.size(); ++k) {
      fit.error += correction.singular[k] * correction.singular[k];
    }
  }
  // The tail is the error in the norm that the SVD was made in.
  if (rank == 0 || whitened != weighted()) fit.error = error_of(fit);
  return fit;
}

Result<SharedFit> SharedFitter::improve(SharedFit fit, std::int64_t rank, int rounds) const {
  for (int round = 0; round < rounds; ++round) {
    OF_ASSIGN(const Matrix mean, mean_without(fit.corrections));
    SharedFit next = correct(mean, rank);
    const bool done = next.error >= fit.error * (1 - kWorthARound);
    if (next.error < fit.error) fit = std::move(next);
    if (done) break;
  }
  return fit;
}

Result<SharedFit> SharedFitter::alternate(const Matrix& start, std::int64_t rank, int rounds) const {
  return improve(correct(start, rank), rank, rounds);
}

Result<SharedFit> SharedFitter::closed_form(std::int64_t rank, int rounds) const {
  const Matrix difference = sum(weights_[0], weights_[1], -1);
  std::optional<Matrix> factor;
  if (weighted()) {
    OF_ASSIGN(factor, cholesky_factor(total_, 0));
  }
  const LowRank both = projected_low_rank(difference, factor ? &*factor : nullptr, 2 * rank);
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
  fit.error = error_of(fit);
  if (!weighted()) return fit;
  // Where the inputs differ much, one norm for both is no good.
  OF_ASSIGN(const Matrix mean, weighted_mean());
  SharedFit split = correct(fit.shared, rank), from_mean = correct(mean, rank);
  return improve(split.error < from_mean.error ? std::move(split) : std::move(from_mean), rank, rounds);
}

}  // namespace onnxfold
