#include "analysis/algebra/inverse_factor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/analysis/algebra/random_matrix.h"

namespace onnxfold::inverse_factor_test {
namespace {

// ||U (H + lambda I) U' - I||, which is 0 when U'U is the inverse.
double miss(const Matrix& gram, const InverseFactor& factor) {
  const std::int64_t n = gram.rows;
  Matrix damped = gram;
  double mean = 0;
  for (std::int64_t i = 0; i < n; ++i) mean += gram.at(i, i) / static_cast<double>(n);
  for (std::int64_t i = 0; i < n; ++i) {
    damped.at(i, i) = (gram.at(i, i) > 0 ? gram.at(i, i) : mean) + factor.damping * mean;
  }
  const Matrix u(n, n, std::vector<double>(factor.upper.begin(), factor.upper.end()));
  return frobenius_norm(sum(product(product(u, damped), u, false, true), identity_matrix(n), -1));
}

Matrix gram_of(std::int64_t rows, std::int64_t cols, double outlier = 1) {
  Matrix x = test::random_matrix(rows, cols, 1);
  for (std::int64_t i = 0; i < rows; ++i) x.at(i, 0) *= outlier;
  return product(x, x, true);
}

TEST(InverseFactor, IsUpperAndFactorsTheInverse) {
  for (const std::int64_t n : {1, 5, 96, 97, 230}) {
    const Matrix gram = gram_of(2 * n + 3, n);
    const auto factor = inverse_factor(gram, 0.01);
    ASSERT_TRUE(factor);
    EXPECT_DOUBLE_EQ(factor->damping, 0.01);
    EXPECT_LT(miss(gram, *factor), 2e-4 * std::sqrt(static_cast<double>(n))) << n;
    for (std::int64_t i = 1; i < n; ++i) EXPECT_EQ(factor->upper[static_cast<std::size_t>(i * n)], 0.0F);
  }
}

TEST(InverseFactor, FewRowsOutliersAndDeadColumns) {
  Matrix gram = gram_of(20, 60, 1e3);
  for (std::int64_t i = 0; i < 60; ++i) gram.at(i, 7) = gram.at(7, i) = 0;
  const auto factor = inverse_factor(gram, 0.01);
  ASSERT_TRUE(factor);
  EXPECT_LT(miss(gram, *factor), 1e-2);
}

TEST(InverseFactor, RefusesWhatIsNoNumber) {
  Matrix gram = gram_of(20, 4);
  gram.at(1, 1) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(inverse_factor(gram, 0.1));
}

}  // namespace
}  // namespace onnxfold::inverse_factor_test
