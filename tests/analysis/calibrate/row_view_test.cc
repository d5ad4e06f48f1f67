#include "analysis/calibrate/row_view.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "analysis/calibrate/statistics.h"

namespace onnxfold::row_view_test {
namespace {

Datum counted(DType dtype, const Dims& dims) {
  std::vector<double> numbers(static_cast<std::size_t>(element_count(dims)));
  std::iota(numbers.begin(), numbers.end(), 1.0);
  return Datum(*to_array(*from_doubles(dtype, dims, numbers), Precision::kFloat32));
}

TEST(RowView, RowsLieWhereTheyAre) {
  const Datum datum = counted(DType::kFloat32, {2, 3, 4});
  const auto view = RowView::of(datum, {});
  ASSERT_TRUE(view) << view.error().message;
  EXPECT_EQ(view->rows(), 6);
  EXPECT_EQ(view->cols(), 4);
  EXPECT_EQ(view->floats(), datum.array.data<float>());
  EXPECT_EQ(view->doubles(), nullptr);
  EXPECT_EQ(view->matrix().data, rows_of(datum, {})->data);
}

TEST(RowView, NeighbouringColumnsAndPositionsAreNoCopies) {
  const Datum datum = counted(DType::kFloat32, {2, 3, 4});
  const RowView view = *RowView::of(datum, {});
  EXPECT_EQ(view.columns({1, 2}).floats(), view.floats() + 1);
  EXPECT_EQ(view.columns({1, 2}).matrix().data, (std::vector<double>{2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23}));
  EXPECT_EQ(view.columns({3, 0}).matrix().data, (std::vector<double>{4, 1, 8, 5, 12, 9, 16, 13, 20, 17, 24, 21}));
  EXPECT_EQ(view.columns({}).cols(), 4);
  EXPECT_EQ(view.every(3, 1).matrix().data, (std::vector<double>{5, 6, 7, 8, 17, 18, 19, 20}));
  EXPECT_EQ(view.every(3, 1).columns({3}).matrix().data, (std::vector<double>{8, 20}));
  EXPECT_EQ(view.every(3, 9).rows(), 0);
}

TEST(RowView, OtherTypesAreDoubles) {
  const RowView view = *RowView::of(counted(DType::kFloat64, {2, 3}), {});
  EXPECT_EQ(view.floats(), nullptr);
  EXPECT_EQ(view.columns({2, 0}).matrix().data, (std::vector<double>{3, 1, 6, 4}));
  EXPECT_EQ(RowView::of(counted(DType::kInt64, {2, 2}), {})->matrix().data, (std::vector<double>{1, 2, 3, 4}));
}

TEST(RowView, SideBySideInAnyTypes) {
  const RowView one = *RowView::of(counted(DType::kFloat32, {2, 2}), {});
  const RowView two = *RowView::of(counted(DType::kFloat64, {2, 1}), {});
  const std::vector<double> expected = {1, 2, 1, 3, 4, 2};
  EXPECT_EQ(RowView::beside(one, two).matrix().data, expected);
  EXPECT_EQ(RowView::beside(one, one.columns({0})).matrix().data, (std::vector<double>{1, 2, 1, 3, 4, 3}));
  EXPECT_EQ(RowView::beside(two, two).matrix().data, (std::vector<double>{1, 1, 2, 2}));
}

TEST(RowView, MaskedRowsAndChannelsInFront) {
  const RowMask mask{{1, 3}, {1, 0, 1}};
  EXPECT_EQ(RowView::of(counted(DType::kFloat32, {1, 3, 2}), mask)->matrix().data, (std::vector<double>{1, 2, 5, 6}));
  EXPECT_EQ(RowView::of(counted(DType::kFloat32, {1, 2, 3}), {}, 1)->matrix().data,
            (std::vector<double>{1, 4, 2, 5, 3, 6}));
  EXPECT_FALSE(RowView::of(counted(DType::kFloat32, {1, 2, 3}), {}, 3));
}

// Of any width: whole vectors and the columns that are left over.
TEST(RowView, MomentsOfFloatsAreThoseOfDoubles) {
  for (const std::int64_t cols : {1, 7, 8, 19}) {
    std::vector<double> numbers(static_cast<std::size_t>(5 * cols));
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(std::sin(static_cast<double>(i)));
    const Datum datum(*to_array(*from_doubles(DType::kFloat32, {5, cols}, numbers), Precision::kFloat32));
    Moments floats, doubles;
    floats.add(*RowView::of(datum, {}));
    doubles.add(Matrix(5, cols, numbers));
    EXPECT_EQ(floats.rows, 5);
    EXPECT_EQ(floats.sum, doubles.sum);
    EXPECT_EQ(floats.sum_abs, doubles.sum_abs);
    EXPECT_EQ(floats.max_abs, doubles.max_abs);
    EXPECT_EQ(floats.sum_squares, doubles.sum_squares);
    double sum = 0, squares = 0;
    for (std::size_t i = static_cast<std::size_t>(cols) - 1; i < numbers.size(); i += static_cast<std::size_t>(cols)) {
      sum += numbers[i];
      squares += numbers[i] * numbers[i];
    }
    EXPECT_EQ(floats.sum.back(), sum);
    EXPECT_EQ(floats.sum_squares.back(), squares);
  }
}

TEST(RowView, NaNIsNoMaximum) {
  Moments moments;
  moments.add(Matrix(3, 1, {-2, NAN, 1}));
  EXPECT_EQ(moments.max_abs, (std::vector<double>{2}));
  EXPECT_TRUE(std::isnan(moments.sum.front()));
}

TEST(RowView, GramOfMixedTypes) {
  const RowView floats = *RowView::of(counted(DType::kFloat32, {2, 2}), {});
  const RowView doubles = *RowView::of(counted(DType::kFloat64, {2, 1}), {});
  Matrix gram;
  add_gram(gram, floats, doubles);
  EXPECT_EQ(gram.data, (std::vector<double>{7, 10}));
}

}  // namespace
}  // namespace onnxfold::row_view_test
