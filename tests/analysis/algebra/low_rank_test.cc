#include "analysis/algebra/low_rank.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/analysis/algebra/random_matrix.h"

namespace onnxfold::low_rank_test {
namespace {

double error(const LowRank& factors, const Matrix& w) {
  return frobenius_norm(sum(product(factors.a, factors.b), w, -1));
}

double tail(const std::vector<double>& singular, std::size_t rank) {
  double squares = 0;
  for (std::size_t i = rank; i < singular.size(); ++i) squares += singular[i] * singular[i];
  return std::sqrt(squares);
}

TEST(LowRank, ErrorIsTheTailOfTheSingularValues) {
  for (const auto& [rows, cols] : {std::pair{9, 6}, std::pair{5, 8}, std::pair{1, 4}}) {
    const Matrix w = test::random_matrix(rows, cols, 1);
    for (std::int64_t rank = 0; rank <= rows; ++rank) {
      const LowRank factors = low_rank(w, rank);
      EXPECT_NEAR(error(factors, w), tail(factors.singular, static_cast<std::size_t>(rank)), 1e-10);
    }
  }
}

TEST(LowRank, RankIsCappedAndFullRankGivesTheWeightBack) {
  const Matrix w = test::random_matrix(7, 4, 2);
  const LowRank factors = low_rank(w, 100);
  EXPECT_EQ(factors.a.cols, 4);
  EXPECT_LT(error(factors, w), 1e-12);
}

TEST(LowRank, WhitenedIsBetterOnItsInputsAndWorseOnTheWeight) {
  Matrix x = test::random_matrix(50, 8, 3);
  for (std::int64_t row = 0; row < x.rows; ++row) {
    for (std::int64_t col = 0; col < x.cols; ++col) x.at(row, col) *= std::pow(0.4, static_cast<double>(col));
  }
  const Matrix w = test::random_matrix(8, 6, 4), gram = product(x, x, true);
  const auto output_error = [&](const LowRank& f) { return frobenius_norm(product(x, sum(product(f.a, f.b), w, -1))); };
  const LowRank plain = low_rank(w, 3);
  const auto whitened = whitened_low_rank(w, gram, 3, 0);
  ASSERT_TRUE(whitened);
  EXPECT_LT(output_error(*whitened), output_error(plain));
  EXPECT_GT(error(*whitened, w), error(plain, w));
  EXPECT_NEAR(output_error(*whitened), tail(whitened->singular, 3), 1e-9);
  const auto full = whitened_low_rank(w, gram, 6, 0);
  ASSERT_TRUE(full);
  EXPECT_LT(error(*full, w), 1e-8);
}

TEST(LowRank, WhiteningTakesInputsThatAreDependent) {
  const Matrix x = product(test::random_matrix(50, 2, 5), test::random_matrix(2, 6, 6));
  const auto factors = whitened_low_rank(test::random_matrix(6, 4, 7), product(x, x, true), 2);
  ASSERT_TRUE(factors);
  for (const double element : factors->a.data) EXPECT_TRUE(std::isfinite(element));
}

// Nothing is kept, but what was lost is known.
TEST(LowRank, RankZeroIsEmpty) {
  for (const auto& [rows, cols] : {std::pair(4, 6), std::pair(6, 4)}) {
    Matrix weight(rows, cols), gram(rows, rows), factor(rows, rows);
    for (std::int64_t i = 0; i < rows; ++i) {
      gram.at(i, i) = 4;
      factor.at(i, i) = 2;
      for (std::int64_t j = 0; j < cols; ++j) weight.at(i, j) = static_cast<double>((3 * i + j * j) % 7);
    }
    const auto whitened = whitened_low_rank(weight, gram, 0, 0);
    ASSERT_TRUE(whitened);
    for (const LowRank& made : {*whitened, projected_low_rank(weight, &factor, 0)}) {
      EXPECT_TRUE(made.a.data.empty());
      EXPECT_TRUE(made.b.data.empty());
      EXPECT_GT(made.singular.at(0), 1);
    }
  }
}

TEST(LowRank, OrthonormalColumnsGiveTheSameProduct) {
  for (const std::int64_t rank : {0, 1, 4, 7}) {
    const Matrix a = test::random_matrix(7, rank, 5), b = test::random_matrix(rank, 9, 6);
    Matrix q = a, rest = b;
    orthonormalize(q, rest);
    EXPECT_LT(frobenius_norm(sum(product(q, rest), product(a, b), -1)), 1e-12);
    EXPECT_LT(frobenius_norm(sum(product(q, q, true), identity_matrix(rank), -1)), 1e-12);
  }
}

}  // namespace
}  // namespace onnxfold::low_rank_test
