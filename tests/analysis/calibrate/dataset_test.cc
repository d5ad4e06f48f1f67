#include "analysis/calibrate/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "formats/npz/npz.h"
#include "tests/support/paths.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::dataset_test {
namespace {

using test::model_from_text;

std::string npz(const std::map<std::string, Tensor>& arrays) {
  const std::string path = test::temp_dir() + "/data.npz";
  EXPECT_TRUE(save_npz(path, arrays));
  return path;
}

const char* const kRows =
    R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) })";
const char* const kTokens = R"(<ir_version: 8, opset_import: ["": 17]>
  g (int64[N, T] ids, int64[N, T] attention_mask) => (float[N, T, 4] y) <float[7, 4] table = {}>
  { wide = Cast<to = 6>(ids) back = Cast<to = 7>(wide) y = Gather(table, back) })";

TEST(Dataset, GeneratedIndicesOfGatherNDStayInside) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (int64[N, 2] at, int64[4, 1] each) => (float[N, 4] y, float[4] z) <float[7, 5, 4] table = {}, float[4, 3] rows = {}> {
      y = GatherND(table, at) z = GatherND<batch_dims = 1>(rows, each) })");
  const auto data = generate_dataset(*model, 5);
  ASSERT_TRUE(data) << data.error().message;
  const auto largest = [&](const char* name) {
    const auto numbers = *to_doubles(data->batches[0].at(name).array);
    return *std::max_element(numbers.begin(), numbers.end());
  };
  EXPECT_LT(largest("at"), 5);
  EXPECT_LT(largest("each"), 3);
}

TEST(Dataset, SlicesSamplesIntoBatches) {
  const auto model = model_from_text(kRows);
  const std::string path = npz({{"x", Tensor::of<float>({5, 2}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9})}});
  const auto data = load_dataset(*model, path, {.batch_size = 2, .max_samples = 0});
  ASSERT_TRUE(data) << data.error().message;
  EXPECT_EQ(data->batch_sizes, (std::vector<std::int64_t>{2, 2, 1}));
  EXPECT_EQ(*to_doubles(data->batches[2].at("x").array), (std::vector<double>{8, 9}));
}

TEST(Dataset, OneArrayGoesToTheOneInputAndTheRestAreTargets) {
  const auto model = model_from_text(kRows);
  const auto data = load_dataset(*model, npz({{"pixels", Tensor::of<float>({2, 2}, {0, 1, 2, 3})},
                                              {"labels", Tensor::of<std::int64_t>({2}, {0, 1})}}));
  ASSERT_TRUE(data) << data.error().message;
  EXPECT_TRUE(data->batches[0].contains("x"));
  EXPECT_TRUE(data->targets.contains("labels"));
}

TEST(Dataset, LabelsMustBeOneASample) {
  const auto model = model_from_text(kRows);
  const Tensor x = Tensor::of<float>({3, 2}, {0, 1, 2, 3, 4, 5});
  const auto few = load_dataset(*model, npz({{"x", x}, {"labels", Tensor::of<std::int64_t>({2}, {0, 1})}}));
  ASSERT_FALSE(few);
  EXPECT_NE(few.error().message.find("'labels' has 2 entries for 3 samples"), std::string::npos);
  // Of another name, it may be anything.
  EXPECT_TRUE(load_dataset(*model, npz({{"x", x}, {"classes", Tensor::of<std::int64_t>({2}, {0, 1})}})));
}

TEST(Dataset, DerivesMasks) {
  const auto model = model_from_text(kTokens);
  const auto data = load_dataset(*model, npz({{"ids", Tensor::of<std::int64_t>({2, 3}, {0, 1, 2, 3, 4, 5})}}));
  ASSERT_TRUE(data) << data.error().message;
  EXPECT_EQ(*to_doubles(data->batches[0].at("attention_mask").array), std::vector<double>(6, 1.0));
  EXPECT_NE(data->origin.find("derived"), std::string::npos);
}

TEST(Dataset, ErrorsNameTheInputAndWhatTheFileHolds) {
  const auto model = model_from_text(kRows);
  const auto expect = [&](const std::map<std::string, Tensor>& arrays, const std::string& part) {
    const auto data = load_dataset(*model, npz(arrays));
    ASSERT_FALSE(data);
    EXPECT_EQ(data.error().code, Code::kInvalidArgument);
    EXPECT_NE(data.error().message.find(part), std::string::npos) << data.error().message;
  };
  expect({{"other", Tensor::of<float>({5, 3}, std::vector<float>(15))}}, "no array for input 'x'");
  expect({{"x", Tensor::of<float>({5, 3}, std::vector<float>(15))}}, "'x' needs float[N,2]");
  expect({{"x", Tensor::strings({1, 2}, {"a", "b"})}}, "string[1,2]");
  EXPECT_EQ(load_dataset(*model, "/no/such.npz").error().code, Code::kIo);
}

TEST(Generate, StaysInsideTheTableAndTakesTwoSizes) {
  const auto model = model_from_text(kTokens);
  const auto data = generate_dataset(*model, 0);
  ASSERT_TRUE(data) << data.error().message;
  ASSERT_EQ(data->batches.size(), 2U);
  for (const Feeds& feeds : data->batches) {
    const auto ids = *to_int64s(feeds.at("ids").array);
    for (const std::int64_t id : ids) EXPECT_TRUE(id >= 0 && id < 7) << id;
    EXPECT_EQ(feeds.at("ids").array.dims(), feeds.at("attention_mask").array.dims());
  }
  EXPECT_NE(data->batches[0].at("ids").array.dims(), data->batches[1].at("ids").array.dims());
}

TEST(Generate, TheSameSeedGivesTheSameData) {
  const auto model = model_from_text(kRows);
  const auto numbers = [&](std::uint64_t seed) {
    return *to_doubles(generate_dataset(*model, seed)->batches[0].at("x").array);
  };
  EXPECT_EQ(numbers(3), numbers(3));
  EXPECT_NE(numbers(3), numbers(4));
}

constexpr const char* kRecurrent = R"(<ir_version: 8, opset_import: ["": 17]>
  g (float[A, B] x, float[2, C, 3] state) => (float[D, E, F] y) { y = Mul(state, state) z = Relu(x) })";

TEST(Dataset, ArraysThatDisagreeInSamplesAreOneBatch) {
  const auto model = model_from_text(kRecurrent);
  const auto data = load_dataset(*model, npz({{"x", Tensor::of<float>({1, 4}, std::vector<float>(4))},
                                              {"state", Tensor::of<float>({2, 1, 3}, std::vector<float>(6))}}));
  ASSERT_TRUE(data) << data.error().message;
  ASSERT_EQ(data->batches.size(), 1U);
  EXPECT_EQ(data->batches[0].at("state").array.dims(), (Dims{2, 1, 3}));
}

TEST(Generate, TheMiddleOfARecurrentStateIsTheBatch) {
  const auto model = model_from_text(kRecurrent);
  const auto data = generate_dataset(*model, 0);
  ASSERT_TRUE(data) << data.error().message;
  for (const Feeds& feeds : data->batches) {
    EXPECT_EQ(feeds.at("state").array.dim(1), feeds.at("x").array.dim(0));
  }
}

TEST(Generate, AMaskCoversEarlierPositionsToo) {
  for (const char* axis : {"all", "past_and_new", "M"}) {
    const auto model = model_from_text(std::string(R"(<ir_version: 8, opset_import: ["": 17]>
      g (int64[B, S] input_ids, int64[B, )") +
                                       axis + R"(] attention_mask, float[B, 2, P, 4] past_key)
      => (float[B, 2, T, 4] y) { y = Relu(past_key) a = Relu(input_ids) b = Relu(attention_mask) })");
    const auto data = generate_dataset(*model, 0);
    ASSERT_TRUE(data) << data.error().message;
    for (const Feeds& feeds : data->batches) {
      EXPECT_EQ(feeds.at("attention_mask").array.dim(1),
                feeds.at("past_key").array.dim(2) + feeds.at("input_ids").array.dim(1));
    }
  }
}

TEST(Generate, ABatchOfOneWhenTheModelTakesNoOther) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[3] y) <int64[1] axes = {0}> { y = Squeeze(x, axes) })");
  const auto data = generate_dataset(*model, 0);
  ASSERT_TRUE(data) << data.error().message;
  for (const Feeds& feeds : data->batches) EXPECT_EQ(feeds.at("x").array.dim(0), 1);
}

TEST(Generate, ABatchOfTwoWhenTheModelTakesNoOther) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, T, 3] x) => (float[N, T, 3] y) <int64[3] two = {2, -1, 3}> { y = Reshape(x, two) })");
  const auto data = generate_dataset(*model, 0);
  ASSERT_TRUE(data) << data.error().message;
  EXPECT_EQ(data->batches[0].at("x").array.dim(0), 2);
  EXPECT_EQ(data->batches[1].at("x").array.dim(0), 2);
}

TEST(Generate, RefusesHugeShapes) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[1000000, 1000000] x) => (float[1000000, 1000000] y) { y = Relu(x) })");
  EXPECT_EQ(generate_dataset(*model, 0).error().code, Code::kInvalidArgument);
}

TEST(Generate, LengthsFitTheSequence) {
  const auto model = test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[seq, batch, 4] x, int32[batch] input_lengths) => (float[seq, 1, batch, 3] y)
    <float[1, 9, 4] w = {}, float[1, 9, 3] r = {}> { y = GRU <hidden_size = 3> (x, w, r, , input_lengths) })");
  const auto data = generate_dataset(*model, 0);
  ASSERT_TRUE(data) << data.error().message;
}

TEST(Generate, LargerSizesWhereSmallOnesGiveNothing) {
  const auto model = test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 1, T] x) => (float[N, 1, U] y) <float[1, 1, 400] w = {}> { y = Conv <strides = [160]> (x, w) })");
  const auto data = generate_dataset(*model, 0);
  ASSERT_TRUE(data) << data.error().message;
  EXPECT_GE(data->batches[0].at("x").array.dim(2), 400);
}

TEST(Generate, SizesThatAnExporterHidInReshapes) {
  const auto model = test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N, L, 8] x) => (float[N, L, 8] y) <int64[4] heads = {3, 11, 2, 4}, int64[3] flat = {3, 11, 8}> {
  h = Reshape(x, heads) y = Reshape(h, flat) })");
  const auto data = generate_dataset(*model, 0);
  ASSERT_TRUE(data) << data.error().message;
  EXPECT_EQ(data->batches[0].at("x").array.dims(), (Dims{3, 11, 8}));
}

}  // namespace
}  // namespace onnxfold::dataset_test
