#include "passes/tie/shared_fit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "analysis/calibrate/statistics.h"

namespace onnxfold::shared_fit_test {
namespace {

Matrix normal(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> number;
  Matrix matrix(rows, cols);
  for (double& x : matrix.data) x = number(random);
  return matrix;
}

// Rows whose channels have very different sizes and depend on each other.
Matrix inputs(std::int64_t rows, std::int64_t cols, std::uint64_t seed, std::uint64_t mixing) {
  Matrix mix = normal(cols, cols, mixing);
  for (std::int64_t row = 0; row < cols; ++row) {
    for (std::int64_t col = 0; col < cols; ++col) mix.at(row, col) *= std::exp(-0.5 * static_cast<double>(row));
  }
  return product(normal(rows, cols, seed), mix);
}

std::vector<Matrix> layers(int count, std::int64_t in, std::int64_t out) {
  std::vector<Matrix> weights;
  for (int i = 0; i < count; ++i) weights.push_back(sum(normal(in, out, 99), normal(in, out, i + 1), 0.7));
  return weights;
}

SharedFitter fitter(int count, std::int64_t in, std::int64_t out, const std::vector<Matrix>& grams = {}) {
  std::vector<const Matrix*> pointers;
  for (const Matrix& gram : grams) pointers.push_back(&gram);
  return *SharedFitter::create(layers(count, in, out), pointers);
}

double squared(const Matrix& matrix) { return std::pow(frobenius_norm(matrix), 2); }

double error_by_hand(const SharedFitter& fitter, const SharedFit& fit, const std::vector<Matrix>& x = {}) {
  double error = 0;
  for (std::size_t l = 0; l < fitter.count(); ++l) {
    Matrix rest = sum(*fitter.weight(l), fit.shared, -1);
    if (fit.corrections[l].a.cols > 0) rest = sum(rest, product(fit.corrections[l].a, fit.corrections[l].b), -1);
    error += squared(x.empty() ? rest : product(x[l], rest));
  }
  return error;
}

TEST(SharedFit, TheErrorIsTheEnergyThatWasCutAndFallsWithTheRank) {
  for (const auto& [in, out] : {std::pair{10, 7}, std::pair{7, 10}, std::pair{8, 8}}) {
    const SharedFitter fit = fitter(3, in, out);
    double last = HUGE_VAL;
    for (std::int64_t rank = 0; rank <= 8; ++rank) {
      const SharedFit cut = *fit.correct(*fit.average(), rank);
      double tail = 0;
      for (std::size_t l = 0; l < fit.count(); ++l) {
        const Matrix weight = *fit.weight(l);
        const Svd all = svd(sum(weight, *fit.average(), -1));
        for (auto k = static_cast<std::size_t>(rank); k < all.singular.size(); ++k) {
          tail += all.singular[k] * all.singular[k];
        }
      }
      EXPECT_NEAR(cut.error, tail, 1e-12 * fit.energy());
      EXPECT_NEAR(error_by_hand(fit, cut), tail, 1e-12 * fit.energy());
      EXPECT_LE(cut.error, last);
      last = cut.error;
    }
    EXPECT_NEAR(last, 0, 1e-24 * fit.energy());
  }
}

TEST(SharedFit, ResidualsOfTheAverageSumToZero) {
  const SharedFitter fit = fitter(4, 6, 9);
  Matrix all(6, 9);
  for (std::size_t l = 0; l < fit.count(); ++l) all = sum(all, sum(*fit.weight(l), *fit.average(), -1));
  EXPECT_LT(frobenius_norm(all), 1e-13 * std::sqrt(fit.energy()));
}

// Half of the energy beyond component 2r of the difference: the lower bound.
TEST(SharedFit, TheClosedFormMeetsItsBoundAndNeverLosesToAverage) {
  const SharedFitter fit = fitter(2, 9, 12);
  const Svd difference = svd(sum(*fit.weight(0), *fit.weight(1), -1));
  for (std::int64_t rank = 0; rank <= 9; ++rank) {
    const SharedFit closed = *fit.closed_form(rank, 0);
    double bound = 0;
    for (auto k = static_cast<std::size_t>(2 * rank); k < difference.singular.size(); ++k) {
      bound += difference.singular[k] * difference.singular[k] / 2;
    }
    EXPECT_NEAR(closed.error, bound, 1e-12 * fit.energy());
    EXPECT_NEAR(error_by_hand(fit, closed), closed.error, 1e-12 * fit.energy());
    EXPECT_LE(closed.error, fit.correct(*fit.average(), rank)->error + 1e-12 * fit.energy());
    EXPECT_LE(closed.error, fit.alternate(*fit.average(), rank, 10)->error + 1e-12 * fit.energy());
  }
}

TEST(SharedFit, AlternationNeverRises) {
  const SharedFitter fit = fitter(3, 12, 12);
  double last = fit.correct(*fit.average(), 2)->error;
  const double first = last;
  for (int rounds = 1; rounds <= 6; ++rounds) {
    const double error = fit.alternate(*fit.average(), 2, rounds)->error;
    EXPECT_LE(error, last);
    last = error;
  }
  EXPECT_LT(last, 0.9 * first);
}

TEST(SharedFit, WeightedMeanIsTheLeastSquaresSharedMatrix) {
  std::vector<Matrix> x, grams(3);
  for (int l = 0; l < 3; ++l) {
    x.push_back(inputs(200, 8, 10 + l, 20 + l));
    add_gram(grams[l], x[l], x[l]);
  }
  const SharedFitter fit = fitter(3, 8, 6, grams);
  const SharedFit best = *fit.correct(*fit.weighted_mean(), 0);
  EXPECT_LT(error_by_hand(fit, best, x), error_by_hand(fit, *fit.correct(*fit.average(), 0), x));
  for (int trial = 0; trial < 5; ++trial) {
    const SharedFit moved = *fit.correct(sum(best.shared, normal(8, 6, trial), 1e-3), 0);
    EXPECT_GE(moved.error, best.error);
  }
}

// Fitted on some rows, judged on others.
TEST(SharedFit, WhitenedNeverHasMoreOutputErrorOnHeldOutRows) {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    std::vector<Matrix> held_out, grams(2);
    for (std::uint64_t l = 0; l < 2; ++l) {
      const Matrix x = inputs(400, 10, seed * 10 + l, seed + 50 + l);
      add_gram(grams[l], x, x);
      held_out.push_back(inputs(400, 10, seed * 10 + l + 1000, seed + 50 + l));
    }
    const SharedFitter fit = fitter(2, 10, 14, grams);
    const Matrix mean = *fit.weighted_mean();
    for (std::int64_t rank = 1; rank <= 8; ++rank) {
      const double plain = error_by_hand(fit, *fit.correct(mean, rank, true), held_out);
      const double whitened = error_by_hand(fit, *fit.correct(mean, rank), held_out);
      EXPECT_LE(whitened, plain) << rank;
      EXPECT_LE(error_by_hand(fit, *fit.closed_form(rank, 5), held_out), whitened) << rank;
    }
  }
}

TEST(SharedFit, DeadInputsAndEmptyStatistics) {
  std::vector<Matrix> grams(2, Matrix(5, 5));
  grams[0].at(2, 2) = 3;  // one live channel; the other layer saw nothing but zeros
  const SharedFitter fit = fitter(2, 5, 4, grams);
  const SharedFit full = *fit.closed_form(4, 2);
  EXPECT_LT(error_by_hand(fit, full), 1e-15);
}

}  // namespace
}  // namespace onnxfold::shared_fit_test
