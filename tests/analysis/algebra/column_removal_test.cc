#include "analysis/algebra/column_removal.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/analysis/algebra/random_matrix.h"

namespace onnxfold::column_removal_test {
namespace {

using test::random_matrix;

double error(const Matrix& x, const Matrix& full, const std::vector<std::int64_t>& kept, const Matrix& weight) {
  const Matrix difference = sum(product(columns_at(x, kept), weight), product(x, full), -1);
  return frobenius_norm(difference) * frobenius_norm(difference);
}

std::vector<std::int64_t> without(std::int64_t size, const std::vector<std::int64_t>& gone) {
  std::vector<std::int64_t> kept;
  for (std::int64_t i = 0; i < size; ++i) {
    if (std::find(gone.begin(), gone.end(), i) == gone.end()) kept.push_back(i);
  }
  return kept;
}

std::vector<std::vector<std::int64_t>> singles(std::int64_t count) {
  std::vector<std::vector<std::int64_t>> groups;
  for (std::int64_t i = 0; i < count; ++i) groups.push_back({i});
  return groups;
}

TEST(ColumnRemoval, ErrorIsThatOfLeastSquaresOnWhatIsKept) {
  const Matrix x = random_matrix(60, 7, 1), w = random_matrix(7, 3, 2), gram = product(x, x, true);
  const auto removal = removal_order(gram, w, singles(7), 4, 0);
  ASSERT_TRUE(removal) << removal.error().message;
  ASSERT_EQ(removal->order.size(), 4U);
  for (std::size_t steps = 1; steps <= 4; ++steps) {
    const std::vector<std::int64_t> gone(removal->order.begin(), removal->order.begin() + static_cast<long>(steps));
    const auto kept = without(7, gone);
    const auto refitted = refit_kept(gram, w, kept, 0);
    ASSERT_TRUE(refitted);
    EXPECT_NEAR(error(x, w, kept, *refitted), removal->error[steps - 1], 1e-8);
  }
}

TEST(ColumnRemoval, TheFirstStepIsTheBestOfAll) {
  const Matrix x = random_matrix(60, 6, 3), w = random_matrix(6, 2, 4), gram = product(x, x, true);
  const auto removal = removal_order(gram, w, singles(6), 1, 0);
  for (std::int64_t j = 0; j < 6; ++j) {
    const auto kept = without(6, {j});
    EXPECT_GE(error(x, w, kept, *refit_kept(gram, w, kept, 0)), removal->error[0] - 1e-9);
  }
}

// An input that is the sum of two others can go for nothing.
TEST(ColumnRemoval, DependentInputsAreFree) {
  Matrix x = random_matrix(40, 4, 5);
  for (std::int64_t row = 0; row < x.rows; ++row) x.at(row, 3) = x.at(row, 0) + x.at(row, 1);
  const Matrix w = random_matrix(4, 2, 6), gram = product(x, x, true);
  const auto removal = removal_order(gram, w, singles(4), 1, 1e-9);
  EXPECT_NE(removal->order[0], 2);
  EXPECT_LT(removal->error[0], 1e-5);
}

TEST(ColumnRemoval, GroupsGoTogetherAndOthersStay) {
  const Matrix x = random_matrix(80, 6, 7), w = random_matrix(6, 2, 8), gram = product(x, x, true);
  const auto removal = removal_order(gram, w, {{0, 1}, {2, 3}}, 5, 0);
  ASSERT_EQ(removal->order.size(), 2U);
  const std::int64_t first = removal->order[0] * 2;
  const auto kept = without(6, {first, first + 1});
  EXPECT_NEAR(error(x, w, kept, *refit_kept(gram, w, kept, 0)), removal->error[0], 1e-8);
}

}  // namespace
}  // namespace onnxfold::column_removal_test
