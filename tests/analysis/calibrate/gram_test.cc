#include "analysis/calibrate/gram.h"

#include <gtest/gtest.h>

#include <cmath>

#include "exec/executor.h"
#include "tests/analysis/algebra/random_matrix.h"

namespace onnxfold::gram_test {
namespace {

FloatRows random_rows(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  const Matrix matrix = test::random_matrix(rows, cols, seed);
  FloatRows out(rows, cols);
  for (std::size_t i = 0; i < out.data.size(); ++i) out.data[i] = static_cast<float>(matrix.data[i]);
  return out;
}

Matrix as_matrix(const FloatRows& rows) {
  return Matrix(rows.rows, rows.cols, std::vector<double>(rows.data.begin(), rows.data.end()));
}

TEST(Gram, AgreesWithDoubleProducts) {
  const FloatRows x = random_rows(2100, 400, 1), y = random_rows(2100, 17, 2);
  Matrix gram, cross;
  add_float_gram(gram, x);
  add_float_cross(cross, x, y);
  const Matrix exact = product(as_matrix(x), as_matrix(x), true), other = product(as_matrix(x), as_matrix(y), true);
  EXPECT_LT(frobenius_norm(sum(gram, exact, -1)), 1e-6 * frobenius_norm(exact));
  EXPECT_LT(frobenius_norm(sum(cross, other, -1)), 1e-5 * frobenius_norm(other));
  for (std::int64_t i = 0; i < 400; ++i) EXPECT_EQ(gram.at(i, 0), gram.at(0, i));
}

TEST(Gram, SameBitsAtAnyThreadCountAndRowsAdd) {
  const FloatRows x = random_rows(1500, 50, 3);
  const int before = threads();
  Matrix one, two;
  set_threads(1);
  add_float_gram(one, x);
  set_threads(2);
  add_float_gram(two, x);
  set_threads(before);
  EXPECT_EQ(one.data, two.data);
  add_float_gram(two, x);
  EXPECT_DOUBLE_EQ(two.at(3, 4), 2 * one.at(3, 4));
}

TEST(Gram, MasksFlattenedRowsToo) {
  const RowMask mask{{1, 3}, {1, 0, 1}};
  for (const Dims& dims : {Dims{1, 3, 2}, Dims{3, 2}}) {
    const Datum datum(
        *to_array(*from_doubles(DType::kFloat32, dims, std::vector<double>{1, 2, 3, 4, 5, 6}), Precision::kFloat32));
    const auto view = FloatView::of(datum);
    ASSERT_TRUE(view);
    const std::vector<std::int64_t> kept = kept_rows(datum, mask);
    EXPECT_EQ(kept, (std::vector<std::int64_t>{0, 2}));
    FloatRows rows;
    gather_rows(*view, kept, rows);
    EXPECT_EQ(rows.data, (std::vector<float>{1, 2, 5, 6}));
    gather_differences(*view, *view, kept, 2, rows);
    EXPECT_EQ(rows.data, (std::vector<float>{0, 0, 0, 0}));
  }
  EXPECT_FALSE(FloatView::of(Datum()));
  EXPECT_TRUE(kept_rows(Datum(), mask).empty());
}

TEST(Gram, ViewsConvertOtherTypes) {
  const Datum datum(
      *to_array(*from_doubles(DType::kInt64, Dims{2, 2}, std::vector<double>{1, 2, 3, 4}), Precision::kFloat32));
  const auto view = FloatView::of(datum);
  ASSERT_TRUE(view);
  FloatRows rows;
  gather_rows(*view, {1, 0}, rows);
  EXPECT_EQ(rows.data, (std::vector<float>{3, 4, 1, 2}));
}

}  // namespace
}  // namespace onnxfold::gram_test
