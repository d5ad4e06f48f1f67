#include "analysis/calibrate/refit.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/analysis/algebra/random_matrix.h"

namespace onnxfold::refit_test {
namespace {

using test::random_matrix;

SplitRegression regression(const Matrix& x, const Matrix& y) {
  SplitRegression split;
  split.add(x, y, held_out_rows(x.rows, 16, 0, 16));
  return split;
}

TEST(Refit, FindsTheWeightBehindTheData) {
  const Matrix x = random_matrix(400, 6, 1), truth = random_matrix(6, 3, 2);
  const auto found = refit(regression(x, product(x, truth)), Matrix(6, 3), default_dampings());
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->accepted);
  EXPECT_LT(frobenius_norm(sum(found->weight, truth, -1)), 1e-3 * frobenius_norm(truth));
  EXPECT_NEAR(found->error_before, 1, 1e-12);
}

TEST(Refit, KeepsAWeightThatIsRightAlready) {
  const Matrix x = random_matrix(400, 6, 1), truth = random_matrix(6, 3, 2);
  const auto found = refit(regression(x, product(x, truth)), truth, default_dampings());
  ASSERT_TRUE(found);
  EXPECT_LT(frobenius_norm(sum(found->weight, truth, -1)), 1e-9);
}

// Targets that have nothing to do with the inputs can only be fitted by heart.
TEST(Refit, RejectsNoise) {
  const Matrix x = random_matrix(64, 30, 1), noise = random_matrix(64, 3, 5);
  const auto found = refit(regression(x, noise), Matrix(30, 3), std::vector<double>{1e-6, 1e-4});
  ASSERT_TRUE(found);
  EXPECT_FALSE(found->accepted);
  EXPECT_EQ(frobenius_norm(found->weight), 0);
}

TEST(Refit, TooFewRowsAreRefused) {
  const Matrix x = random_matrix(11, 6, 1), truth = random_matrix(6, 3, 2);
  EXPECT_FALSE(refit(regression(x, product(x, truth)), Matrix(6, 3), default_dampings())->accepted);
}

TEST(Refit, ErrorFromMomentsIsTheErrorOfTheRows) {
  const Matrix x = random_matrix(50, 4, 1), y = random_matrix(50, 2, 2), w = random_matrix(4, 2, 3);
  Regression sums;
  sums.add(x, y);
  const double direct = frobenius_norm(sum(product(x, w), y, -1));
  EXPECT_NEAR(sums.error(w), direct * direct, 1e-9);
}

TEST(Refit, EverySampleIsWhollyFittedOrWhollyHeldOut) {
  const auto flags = held_out_rows(40, 10, 0, 10);
  for (std::size_t row = 0; row < flags.size(); ++row) EXPECT_EQ(flags[row], row / 4 == 7 ? 1 : 0) << row;
  EXPECT_EQ(held_out_rows(40, 10, 5, 20)[8], 1);
  const auto few = held_out_rows(16, 1, 0, 1);
  EXPECT_EQ(std::count(few.begin(), few.end(), 1), 2);
}

TEST(Refit, BiasRow) {
  const Matrix ones = with_ones(random_matrix(3, 2, 1));
  EXPECT_EQ(ones.cols, 3);
  EXPECT_EQ(ones.at(2, 2), 1);
  const Matrix stacked = with_bias_row(random_matrix(2, 2, 1), {5, 6});
  EXPECT_EQ(stacked.rows, 3);
  EXPECT_EQ(stacked.at(2, 1), 6);
}

}  // namespace
}  // namespace onnxfold::refit_test
