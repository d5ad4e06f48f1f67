#include "analysis/calibrate/statistics.h"

#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::statistics_test {
namespace {

constexpr const char* kDoubling = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N,T,2] x, int64[N,T] attention_mask) => (float[N,T,2] y) <float[1] two = {2}> { h = Mul(x, two) y = Abs(h) })";

Datum array_of(DType dtype, const Dims& dims, const std::vector<double>& numbers) {
  return Datum(*to_array(*from_doubles(dtype, dims, numbers), Precision::kFloat32));
}

Dataset two_batches(const std::vector<double>& mask) {
  Dataset data;
  for (const double sign : {1.0, -1.0}) {
    Feeds feeds;
    feeds["x"] = array_of(DType::kFloat32, {1, 2, 2}, {1 * sign, 2 * sign, 3 * sign, 4 * sign});
    feeds["attention_mask"] = array_of(DType::kInt64, {1, 2}, mask);
    data.batches.push_back(feeds);
    data.batch_sizes.push_back(1);
  }
  return data;
}

TEST(Statistics, MomentsAndGramOverAllBatches) {
  const auto model = test::model_from_text(kDoubling);
  const auto found = collect_statistics(*model, two_batches({1, 1}), {"x", "h", "y"});
  ASSERT_TRUE(found) << found.error().message;
  const ValueStatistics& h = found->at("h");
  EXPECT_EQ(h.moments.rows, 4);
  EXPECT_EQ(h.moments.mean(), (std::vector<double>{0, 0}));
  EXPECT_EQ(h.moments.max_abs, (std::vector<double>{6, 8}));
  EXPECT_EQ(h.gram.data, (std::vector<double>{80, 112, 112, 160}));
  EXPECT_EQ(found->at("y").moments.mean(), (std::vector<double>{4, 6}));
  EXPECT_EQ(found->at("x").moments.sum_abs, (std::vector<double>{8, 12}));
}

TEST(Statistics, PaddingIsLeftOut) {
  const auto model = test::model_from_text(kDoubling);
  const auto found = collect_statistics(*model, two_batches({1, 0}), {"h"});
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->at("h").moments.rows, 2);
  EXPECT_EQ(found->at("h").gram.data, (std::vector<double>{8, 16, 16, 32}));
}

TEST(Statistics, ChannelsMayStandInFront) {
  const Datum image = array_of(DType::kFloat32, {1, 2, 3}, {1, 2, 3, 4, 5, 6});
  const auto rows = rows_of(image, {}, 1);
  ASSERT_TRUE(rows);
  EXPECT_EQ(rows->rows, 3);
  EXPECT_EQ(rows->data, (std::vector<double>{1, 4, 2, 5, 3, 6}));
  EXPECT_FALSE(rows_of(image, {}, 3));
  EXPECT_FALSE(rows_of(Datum(), {}));
}

TEST(Statistics, TwoModelsSeeTheSameBatches) {
  const auto model = test::model_from_text(kDoubling);
  Matrix cross;
  const auto visited =
      for_each_batch(*model, {"x"}, *model, {"h"}, two_batches({1, 1}),
                     [&](std::size_t, const Taps& first, const Taps& second, const RowMask& mask) -> Status {
                       OF_ASSIGN(const Matrix x, rows_of(first.at("x"), mask));
                       OF_ASSIGN(const Matrix h, rows_of(second.at("h"), mask));
                       add_gram(cross, x, h);
                       return {};
                     });
  ASSERT_TRUE(visited) << visited.error().message;
  EXPECT_EQ(cross.data, (std::vector<double>{40, 56, 56, 80}));
}

TEST(Statistics, AnUnknownValueIsNamed) {
  const auto model = test::model_from_text(kDoubling);
  const auto found = collect_statistics(*model, two_batches({1, 1}), {"nothing"});
  ASSERT_FALSE(found);
  EXPECT_NE(found.error().message.find("nothing"), std::string::npos);
}

}  // namespace
}  // namespace onnxfold::statistics_test
