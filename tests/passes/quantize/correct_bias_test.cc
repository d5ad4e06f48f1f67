#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/calibrated_run.h"

namespace onnxfold::correct_bias_test {
namespace {

using test::first_output;
using test::relative_distance;
using test::run_passes;

// Positive numbers, so that rounding errors of weights have a mean.
Dataset positive(const Dims& dims) {
  std::vector<double> numbers(static_cast<std::size_t>(element_count(dims)));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = 1 + std::sin(static_cast<double>(i) * 1.3);
  return test::dataset_of("x", dims, numbers);
}

std::string products(const std::string& nodes) {
  return "<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]> g (float[48, 64] x) => (float[48, 32] y) "
         "<float[64, 64] u = {}, float[64, 32] v = {}, float[64] c = {}, float[32] d = {}> { " +
         nodes + " }";
}

std::string convolution(const std::string& nodes) {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[16, 8, 6, 6] x) => (float[16, 8, 6, 6] y) "
         "<float[16, 8, 3, 3] u = {}, float[8, 16, 3, 3] v = {}, float[16] c = {}> { " +
         nodes + " }";
}

// The repaired model is nearer to the original than the quantized one.
void expect_nearer(const std::string& text, const Dataset& data, const RecipeStep& quantize) {
  const auto plain = run_passes({quantize}, text, &data);
  const auto repaired = run_passes({quantize, {"correct-bias", {}, {}}}, text, &data);
  ASSERT_TRUE(repaired.changed) << repaired.changed.error().message;
  EXPECT_TRUE(*repaired.changed) << text;
  const auto original = first_output(*test::model_from_text(text), data);
  const double before = relative_distance(first_output(*plain.model, data), original);
  EXPECT_LT(relative_distance(first_output(*repaired.model, data), original), 0.98 * before) << text;
}

const RecipeStep kTwoBits{"rtn", {{"bits", "2"}, {"block", "32"}}, {}};

TEST(CorrectBias, ProductsWithAndWithoutBias) {
  const Dataset data = positive({48, 64});
  for (const char* nodes :
       {"h = MatMul(x, u) r = Relu(h) y = MatMul(r, v)", "h = Gemm(x, u, c) r = Relu(h) y = Gemm(r, v, d)",
        "h = MatMul(x, u) b = Add(c, h) r = Relu(b) y = MatMul(r, v)"}) {
    expect_nearer(products(nodes), data, kTwoBits);
    expect_nearer(products(nodes), data, {"rtn", {{"bits", "4"}, {"block", "128"}, {"form", "dequantizelinear"}}, {}});
  }
}

TEST(CorrectBias, TheBiasGoesIntoTheOperator) {
  const Dataset data = positive({48, 64});
  const auto run = run_passes({kTwoBits, {"correct-bias", {}, {}}}, products("y = MatMul(x, v)"), &data);
  ASSERT_TRUE(run.did());
  ASSERT_EQ(run.model->graph().node_count(), 1U);
  EXPECT_NE(run.model->graph().nodes()[0]->input(5), nullptr);
}

TEST(CorrectBias, IntegerConvolutionsKeepTheirInt32Bias) {
  const Dataset data = positive({16, 8, 6, 6});
  for (const char* first : {"h = Conv<pads=[1,1,1,1]>(x, u)", "h = Conv<pads=[1,1,1,1]>(x, u, c)"}) {
    const std::string text = convolution(std::string(first) + " r = Relu(h) y = Conv<pads=[1,1,1,1]>(r, v)");
    const auto run = run_passes(
        {{"qdq-int8", {{"ranges", "percentile"}, {"percentile", "80"}}, {}}, {"correct-bias", {}, {}}}, text, &data);
    ASSERT_TRUE(run.did());
    for (const Node* node : run.model->graph().nodes_of("Conv")) {
      const Value* bias = node->input(2);
      if (bias == nullptr) continue;  // its correction was not accepted
      ASSERT_NE(bias->producer(), nullptr);
      EXPECT_EQ(bias->producer()->input(0)->dtype(), DType::kInt32);
    }
    EXPECT_TRUE(run_passes({{"dynamic-int8", {{"reduce-range", "true"}}, {}}, {"correct-bias", {}, {}}},
                           products("h = MatMul(x, u) r = Relu(h) y = MatMul(r, v)"),
                           std::make_unique<Dataset>(positive({48, 64})).get())
                    .changed);
  }
}

// What the model gives is a difference: both sides have the same error, and only one has rows enough to be mended.
constexpr const char* kDifference =
    "<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]> g (float[48, 64] x) => (float[48, 32] y) "
    "<float[64, 32] u = {}, float[64, 32] v = {}, int64[1] samples = {0}> { a = MatMul(x, u) m = ReduceMean(x, "
    "samples) "
    "n = MatMul(m, u) ";

TEST(CorrectBias, KeepsNothingThatTakesTheOutputsAway) {
  const Dataset data = positive({48, 64});
  const auto run =
      run_passes({kTwoBits, {"correct-bias", {}, {}}}, std::string(kDifference) + "y = Sub(a, n) }", &data);
  ASSERT_TRUE(run.changed) << run.changed.error().message;
  EXPECT_FALSE(*run.changed);
  EXPECT_TRUE(run.says("the outputs go away"));
  // Alone the same product is mended.
  EXPECT_TRUE(run_passes({kTwoBits, {"correct-bias", {}, {}}}, products("y = MatMul(x, v)"), &data).did());
}

TEST(CorrectBias, LeavesStreamsWhereOnlyTheRestHelps) {
  const Dataset data = positive({48, 64});
  const auto run = run_passes(
      {kTwoBits, {"correct-bias", {}, {}}},
      std::string(kDifference) + "b = Neg(n) s = Add(a, b) p = MatMul(x, v) r = Relu(p) y = Add(s, r) }", &data);
  ASSERT_TRUE(run.did()) << (run.changed ? "nothing kept" : run.changed.error().message);
  const auto products = run.model->graph().nodes_of("MatMulNBits", "com.microsoft");
  ASSERT_EQ(products.size(), 3U);
  EXPECT_EQ(products[0]->input(5), nullptr);
  EXPECT_EQ(products[1]->input(5), nullptr);
  EXPECT_NE(products[2]->input(5), nullptr);
}

TEST(CorrectBias, NearMisses) {
  const Dataset data = positive({48, 64});
  const std::string text = products("y = MatMul(x, v)");
  EXPECT_FALSE(run_passes({kTwoBits, {"correct-bias", {}, {}}}, text, nullptr).changed);
  const auto alone = run_passes({{"correct-bias", {}, {}}}, text, &data);
  ASSERT_TRUE(alone.changed);
  EXPECT_FALSE(*alone.changed);
  EXPECT_TRUE(alone.says("nothing was quantized before"));
  // Four samples: no eighth one to judge by, and too few rows.
  const Dataset few = positive({4, 64});
  const auto run = run_passes({kTwoBits, {"correct-bias", {}, {}}},
                              "<ir_version: 10, opset_import: [\"\" : 21]> g (float[4, 64] x) => (float[4, 32] y) "
                              "<float[64, 32] v = {}> { y = MatMul(x, v) }",
                              &few);
  ASSERT_TRUE(run.changed);
  EXPECT_FALSE(*run.changed);
  EXPECT_TRUE(run.says("too few rows"));
}

}  // namespace
}  // namespace onnxfold::correct_bias_test
