#include "analysis/algebra/ridge.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/analysis/algebra/random_matrix.h"

namespace onnxfold::ridge_test {
namespace {

double distance(const Matrix& a, const Matrix& b) { return frobenius_norm(sum(a, b, -1)); }

TEST(Ridge, RecoversTheWeightThatMadeTheData) {
  const Matrix x = test::random_matrix(40, 7, 1), w = test::random_matrix(7, 3, 2);
  const Matrix y = product(x, w);
  const auto solved = ridge_solve(product(x, x, true), product(x, y, true), 0);
  ASSERT_TRUE(solved);
  EXPECT_LT(distance(*solved, w), 1e-12);
}

TEST(Ridge, IsLeastOnTheDampedObjective) {
  const Matrix x = test::random_matrix(20, 6, 3), y = test::random_matrix(20, 2, 4),
               prior = test::random_matrix(6, 2, 5);
  const Matrix gram = product(x, x, true);
  double lambda = 0;
  for (int i = 0; i < 6; ++i) lambda += gram.at(i, i) * 0.1 / 6;
  const auto loss = [&](const Matrix& w) {
    return std::pow(distance(product(x, w), y), 2) + lambda * std::pow(distance(w, prior), 2);
  };
  const auto solved = ridge_solve(gram, product(x, y, true), 0.1, &prior);
  ASSERT_TRUE(solved);
  for (std::size_t i = 0; i < solved->data.size(); ++i) {
    for (const double step : {1e-3, -1e-3}) {
      Matrix moved = *solved;
      moved.data[i] += step;
      EXPECT_GT(loss(moved), loss(*solved));
    }
  }
}

TEST(Ridge, InputsThatAreAlwaysZeroKeepThePrior) {
  const Matrix prior = test::random_matrix(3, 2, 6);
  const auto solved = ridge_solve(Matrix(3, 3), Matrix(3, 2), 1e-3, &prior);
  ASSERT_TRUE(solved);
  EXPECT_LT(distance(*solved, prior), 1e-12);
}

TEST(Ridge, DependentInputsAreDampedUntilSolvable) {
  const Matrix x = product(test::random_matrix(30, 2, 7), test::random_matrix(2, 5, 8));
  const Matrix w = test::random_matrix(5, 2, 9);
  const Matrix y = product(x, w);
  const auto solved = ridge_solve(product(x, x, true), product(x, y, true), 0);
  ASSERT_TRUE(solved);
  EXPECT_LT(distance(product(x, *solved), y), 1e-4 * frobenius_norm(y));
}

TEST(Ridge, RefusesWhatHasNoMeaning) {
  EXPECT_EQ(ridge_solve(Matrix(2, 2), Matrix(3, 1), 0).error().code, Code::kInvalidArgument);
  EXPECT_EQ(ridge_solve(Matrix(2, 2), Matrix(2, 1), -1).error().code, Code::kInvalidArgument);
  Matrix broken(2, 2);
  broken.at(0, 0) = std::nan("");
  EXPECT_EQ(ridge_solve(broken, Matrix(2, 1), 0).error().code, Code::kUnsupported);
  EXPECT_FALSE(cholesky_factor(sum(Matrix(2, 2), identity_matrix(2), -1), 0));
  EXPECT_FALSE(solve_positive(sum(Matrix(2, 2), identity_matrix(2), -1), Matrix(2, 1)));
}

TEST(Cholesky, FactorTimesItsTransposeIsTheMatrix) {
  const Matrix x = test::random_matrix(9, 4, 10);
  const Matrix gram = product(x, x, true);
  const auto factor = cholesky_factor(gram, 0);
  ASSERT_TRUE(factor);
  EXPECT_LT(distance(product(*factor, *factor, false, true), gram), 1e-12 * frobenius_norm(gram));
  EXPECT_EQ(factor->at(0, 3), 0);
  const auto solved = solve_positive(gram, gram);
  ASSERT_TRUE(solved);
  EXPECT_LT(distance(*solved, identity_matrix(4)), 1e-9);
}

}  // namespace
}  // namespace onnxfold::ridge_test
