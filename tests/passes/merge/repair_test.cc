// Repairs: what needs none stays as it is, and a damaged model comes closer to its parents.
#include "passes/merge/repair.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "analysis/calibrate/statistics.h"
#include "analysis/compare/ensemble.h"
#include "analysis/structure/correspondence.h"
#include "passes/merge/augment.h"
#include "passes/merge/read_position.h"
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

std::unique_ptr<Model> reader(const std::string& tail) {
  return test::model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[8, 6, 4] x) => (float[N, 3] y) <float[4, 5] w1 = {}, "
      "float[5, 3] w2 = {}, int64 first = {0}, int64[1] at0 = {0}, int64[1] at1 = {1}, int64[1] at2 = {2}, int64[1] "
      "at3 = {3}> { h = MatMul(x, w1) r = Relu(h) s = MatMul(r, w2) " +
      tail + " }");
}

TEST(ReadPosition, OfAClassToken) {
  EXPECT_EQ(read_position(reader("y = Gather <axis = 1> (s, first)")->graph()), 0);
  EXPECT_EQ(read_position(reader("t = Slice(s, at2, at3, at1) y = Squeeze(t, at1)")->graph()), 2);
  EXPECT_EQ(read_position(reader("a = Gather <axis = 1> (s, first) t = Tanh(a) y = Add(a, t)")->graph()), 0);
}

TEST(ReadPosition, NoneWhereSeveralAreRead) {
  EXPECT_EQ(read_position(reader("y = ReduceMean <axes = [1], keepdims = 0> (s)")->graph()), std::nullopt);
  EXPECT_EQ(read_position(reader("a = Gather <axis = 1> (s, first) b = Gather <axis = 1> (s, at1) c = Squeeze(b, at1) "
                                 "y = Add(a, c)")
                              ->graph()),
            std::nullopt);
  EXPECT_EQ(read_position(reader("t = Slice(s, at0, at2, at1) y = ReduceSum <keepdims = 0> (t, at1)")->graph()),
            std::nullopt);
  EXPECT_EQ(read_position(reader("a = Gather <axis = 1> (s, first) b = ReduceMean <axes = [1], keepdims = 0> (s) y = "
                                 "Add(a, b)")
                              ->graph()),
            std::nullopt);
}

// Open dimensions hide that positions [1, 6, 5] are spread over a batch of 8.
TEST(RepairRidge, ASumWithWhatIsSpreadIsNoStream) {
  const auto parent = test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[8, 6, 4] x, int64[3] to_x, int64[3] to_p) => (float[A, B, 3] y)
    <float[4, 5] w1 = {}, float[6, 4] table = {}, float[4, 5] v = {}, float[5, 3] w2 = {}, float[?, ?, 5] h, float[?, ?, 5] t, float[?, ?, 5] s> {
  a = Reshape(x, to_x) h = MatMul(a, w1) q = Reshape(table, to_p) p = MatMul(q, v) t = Tanh(p) s = Add(h, t) r = Relu(s)
  y = MatMul(r, w2)
})");
  Dataset data = *generate_dataset(*test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[8, 6, 4] x) => (float[8, 6, 4] y) { y = Relu(x) })"),
                                   3);
  for (Feeds& feeds : data.batches) {
    feeds["to_x"] = Datum(*to_array(Tensor::of<std::int64_t>({3}, {8, 6, 4}), Precision::kFloat32));
    feeds["to_p"] = Datum(*to_array(Tensor::of<std::int64_t>({3}, {1, 6, 4}), Precision::kFloat32));
  }
  const auto merged = parent->clone();
  RepairOptions options;
  options.damping = 0.001;
  options.weights = {1};
  options.stream = true;
  const auto fitted = repair_ridge(*merged, {parent.get()}, data, options);
  ASSERT_TRUE(fitted.has_value()) << fitted.error().message;
  EXPECT_EQ(*fitted, 3);
  EXPECT_LT(test::largest_difference(*parent, *merged), 1e-3);
}

TEST(RepairRidge, FocusBringsTheReadPositionCloser) {
  const auto one = reader("y = Gather <axis = 1> (s, first)"), two = one->clone(), start = one->clone();
  std::uint32_t seed = 4;
  for (Model* model : {one.get(), two.get(), start.get()}) {
    test::set_weight(*model, "w1", test::random_matrix(4, 5, ++seed));
    test::set_weight(*model, "w2", test::random_matrix(5, 3, ++seed));
  }
  const Dataset data = *generate_dataset(*one, 3);
  std::vector<std::unique_ptr<Model>> repaired;
  for (const double focus : {1.0, 100.0}) {
    repaired.push_back(start->clone());
    RepairOptions options;
    options.damping = 1e-6;
    options.focus = focus;
    options.weights = {1, 1};
    ASSERT_TRUE(repair_ridge(*repaired.back(), {one.get(), two.get()}, data, options).has_value());
  }
  const auto report = score_against_ensemble({one.get(), two.get()}, {repaired[0].get(), repaired[1].get()}, data);
  ASSERT_TRUE(report.has_value()) << report.error().message;
  EXPECT_LT(report->models[1].rel_l2, 0.99 * report->models[0].rel_l2);
}

TEST(RepairRidge, TwoBranchesTogetherKeepWhatIsRight) {
  const auto parent = transformer(), merged = transformer();
  const Dataset data = *generate_dataset(*parent, 3);
  RepairOptions options;
  options.damping = 0.001;
  options.together = true;
  options.weights = {1, 1};
  const auto fitted = repair_ridge(*merged, {parent.get(), parent.get()}, data, options);
  ASSERT_TRUE(fitted.has_value()) << fitted.error().message;
  EXPECT_EQ(test::difference(*parent, *merged, Precision::kFloat32, 1e-4), "");
}

// What the second branch cannot give alone, the first gives with it.
TEST(RepairRidge, TwoBranchesTogetherComeCloser) {
  const auto parent = transformer(), damaged = transformer();
  const Dataset data = *generate_dataset(*parent, 3);
  for (const char* name : {"up0", "up1", "wv0", "wv1"}) {
    test::set_weight(*damaged, name, test::random_matrix(1, parameter(damaged->graph().find(name))->size(), 8));
  }
  std::vector<std::unique_ptr<Model>> repaired;
  for (const bool together : {false, true}) {
    repaired.push_back(damaged->clone());
    RepairOptions options;
    options.damping = 1e-3;
    options.together = together;
    options.weights = {1};
    ASSERT_TRUE(repair_ridge(*repaired.back(), {parent.get()}, data, options).has_value());
  }
  const auto report = score_against_ensemble({parent.get()}, {repaired[0].get(), repaired[1].get()}, data);
  ASSERT_TRUE(report.has_value()) << report.error().message;
  EXPECT_LT(report->models[1].rel_l2, report->models[0].rel_l2);
}

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

TEST(Augment, FewerCopiesTakeTheDirectionsInTurn) {
  Array image(DType::kFloat32, {1, 1, 3, 3}, Precision::kFloat32);
  for (int i = 0; i < 9; ++i) image.mutable_data<float>()[i] = static_cast<float>(i);
  const Dataset data{{{{"x", image}}, {{"x", image}}}, {}, {1, 1}, "two"};
  const auto middles = [&](int copies) {
    const Dataset moved = *with_moved_images(data, copies);
    std::vector<float> found;
    for (const Feeds& feeds : moved.batches) found.push_back(feeds.at("x").array.data<float>()[4]);
    return found;
  };
  EXPECT_EQ(middles(1), (std::vector<float>{4, 4}));
  EXPECT_EQ(middles(5), (std::vector<float>{4, 4, 8, 7, 6, 5, 3, 2, 1, 0}));
}

}  // namespace
}  // namespace onnxfold::repair_test
