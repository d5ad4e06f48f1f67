#include "analysis/calibrate/part.h"

#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::part_test {
namespace {

constexpr const char* kChain = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x, float[N,2] z) => (float[N,2] y) <float[1] two = {2}> {
  a = Mul(x, two) b = Add(a, z) c = Mul(b, two) y = Sub(c, a) })";

Dataset one_batch() {
  Dataset data;
  Feeds feeds;
  feeds["x"] = Datum(*to_array(*from_doubles(DType::kFloat32, {1, 2}, std::vector<double>{1, 2}), Precision::kFloat32));
  feeds["z"] = Datum(*to_array(*from_doubles(DType::kFloat32, {1, 2}, std::vector<double>{3, 4}), Precision::kFloat32));
  data.batches.push_back(feeds);
  data.batch_sizes.push_back(1);
  return data;
}

std::vector<double> numbers(const Recording& recording, const std::string& name) {
  return *to_doubles(recording.batches.at(0).at(name).array);
}

TEST(ModelPart, KeepsOnlyWhatLiesBetween) {
  const auto model = test::model_from_text(kChain);
  const auto part = model_part(*model, {"b"}, {"c"});
  ASSERT_TRUE(part) << part.error().message;
  EXPECT_EQ((*part)->graph().node_count(), 1U);
  ASSERT_EQ((*part)->graph().inputs().size(), 1U);
  EXPECT_EQ((*part)->graph().inputs()[0]->name(), "b");
  EXPECT_EQ(model->graph().node_count(), 4U);
}

TEST(ModelPart, InputsThatAreStillNeededStay) {
  const auto model = test::model_from_text(kChain);
  const auto part = model_part(*model, {"b"}, {"y"});
  ASSERT_TRUE(part);
  EXPECT_EQ((*part)->graph().inputs().size(), 2U);  // x and b
}

TEST(ModelPart, UnknownNamesAreAnError) {
  const auto model = test::model_from_text(kChain);
  EXPECT_FALSE(model_part(*model, {"nothing"}, {"y"}));
}

TEST(Replay, RecordedValuesGoInFrontOfTheData) {
  const auto model = test::model_from_text(kChain);
  const Dataset data = one_batch();
  auto recorded = record(*model, data, {"b"});
  ASSERT_TRUE(recorded) << recorded.error().message;
  EXPECT_EQ(numbers(*recorded, "b"), (std::vector<double>{5, 8}));
  const auto again = replay(*model, data, *recorded, {"y", "b"});
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(numbers(*again, "y"), (std::vector<double>{8, 12}));
  EXPECT_EQ(numbers(*again, "b"), (std::vector<double>{5, 8}));
}

}  // namespace
}  // namespace onnxfold::part_test
