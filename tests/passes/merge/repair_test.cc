// Repairs: what needs none stays as it is, and a damaged model comes closer to its parents.
#include "passes/merge/repair.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "analysis/calibrate/statistics.h"
#include "analysis/compare/ensemble.h"
#include "analysis/structure/correspondence.h"
#include "passes/merge/augment.h"
#include "tests/passes/merge/small_transformer.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::repair_test {
namespace {

using test::transformer;
using Repair = Result<int> (*)(Model&, const std::vector<const Model*>&, const Dataset&, const RepairOptions&);

class Repairs : public ::testing::TestWithParam<Repair> {};

TEST_P(Repairs, OfACopyOfBothParentsKeepsTheFunction) {
  const auto parent = transformer(), merged = transformer();
  const Dataset data = *generate_dataset(*parent, 3);
  RepairOptions options;
  options.damping = 0.001;
  options.weights = {1, 1};
  const auto fitted = GetParam()(*merged, {parent.get(), parent.get()}, data, options);
  ASSERT_TRUE(fitted.has_value()) << fitted.error().message;
  EXPECT_EQ(*fitted, 13);
  EXPECT_EQ(test::difference(*parent, *merged, Precision::kFloat32, 1e-4), "");
}

TEST_P(Repairs, AScaledModelComesBack) {
  const auto parent = transformer(), damaged = transformer();
  const Dataset data = *generate_dataset(*parent, 3);
  for (const std::string name : {"wv0", "up0", "wo1", "down1"}) {
    const Tensor& old = *parameter(damaged->graph().find(name));
    Matrix half(1, old.size(), *to_doubles(old));
    for (double& x : half.data) x *= 0.5;
    test::set_weight(*damaged, name, half);
  }
  const auto repaired = damaged->clone();
  RepairOptions options;
  options.damping = 1e-6;
  options.weights = {1};
  ASSERT_TRUE(GetParam()(*repaired, {parent.get()}, data, options).has_value());
  const auto report = score_against_ensemble({parent.get()}, {damaged.get(), repaired.get()}, data);
  ASSERT_TRUE(report.has_value()) << report.error().message;
  EXPECT_LT(report->models[1].rel_l2, 0.7 * report->models[0].rel_l2);
}

INSTANTIATE_TEST_SUITE_P(All, Repairs, ::testing::Values(repair_ridge, repair_regmean, repair_stats));

TEST(BatchStatistics, AreThoseOfTheData) {
  const auto model = test::model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[4, 2, 5, 5] x) => (float[4, 3, 5, 5] y) <float[3, 2, 1, 1] "
      "w = {}, float[3] s = {1,1,1}, float[3] b = {0,0,0}, float[3] m = {7,7,7}, float[3] v = {9,9,9}> { c = Conv(x, "
      "w) y = BatchNormalization(c, s, b, m, v) }");
  const Dataset data = *generate_dataset(*model, 1);
  EXPECT_EQ(*recompute_batch_statistics(*model, data), 1);
  Moments moments;
  ASSERT_TRUE(for_each_batch(*model, data, {"y"}, [&](std::size_t, const Taps& taps, const RowMask& mask) -> Status {
                moments.add(*rows_of(taps.at("y"), mask, 1));
                return {};
              }).has_value());
  for (const double mean : moments.mean()) EXPECT_NEAR(mean, 0, 1e-5);
  for (const double squares : moments.sum_squares) {
    EXPECT_NEAR(squares / static_cast<double>(moments.rows), 1, 1e-3);
  }
}

TEST(Augment, TokensAreNoImages) {
  const auto model = transformer();
  const Dataset data = *generate_dataset(*model, 1);
  EXPECT_FALSE(has_images(data));
  EXPECT_FALSE(with_moved_images(data).has_value());
}

TEST(Augment, MovesImagesByAPixel) {
  Dataset data;
  Array image(DType::kFloat32, {1, 1, 2, 2}, Precision::kFloat32);
  for (int i = 0; i < 4; ++i) image.mutable_data<float>()[i] = static_cast<float>(i);
  data.batches.push_back({{"x", image}});
  data.batch_sizes = {1};
  EXPECT_TRUE(has_images(data));
  const Dataset moved = *with_moved_images(data);
  ASSERT_EQ(moved.batches.size(), 9U);
  const auto numbers = [&](std::size_t i) { return *to_doubles(moved.batches[i].at("x").array); };
  EXPECT_THAT(numbers(0), ::testing::ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(numbers(1), ::testing::ElementsAre(3, 3, 3, 3));  // up and left
  EXPECT_THAT(numbers(8), ::testing::ElementsAre(0, 0, 0, 0));  // down and right
  EXPECT_FALSE(with_moved_images(Dataset{{Feeds{}}, {}, {1}, ""}).has_value());
}

}  // namespace
}  // namespace onnxfold::repair_test
