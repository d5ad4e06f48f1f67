#include <gtest/gtest.h>

#include <cmath>

#include "ir/verify.h"
#include "passes/quantize/activation_range.h"
#include "tests/support/calibrated_run.h"

namespace onnxfold::qdq_int8_test {
namespace {

using test::first_output;
using test::relative_distance;
using test::run_calibrated;

const test::OptionMap kAll = {{"min-elements", "0"}};

Dataset images(const Dims& dims) {
  std::vector<double> numbers(static_cast<std::size_t>(element_count(dims)));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = std::sin(static_cast<double>(i) * 0.7) + 0.3;
  return test::dataset_of("x", dims, numbers);
}

constexpr const char* kConvs = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, 8, 8] x) => (float[N, 4, 4, 4] y) <float[8, 3, 3, 3] a = {}, float[8] b = {}, float[4, 8, 3, 3] c = {}> {
  h = Conv <kernel_shape = [3, 3]> (x, a, b)
  r = Relu(h)
  y = Conv <kernel_shape = [3, 3]> (r, c)
})";

TEST(QdqInt8, ConvolutionsAreQuantizedOnBothSidesAndRoundedOnce) {
  const Dataset data = images({2, 3, 8, 8});
  const auto run = run_calibrated("qdq-int8", kConvs, &data, kAll);
  ASSERT_TRUE(run.did()) << run.changed.error().message;
  EXPECT_TRUE(verify(*run.model));
  const Graph& graph = run.model->graph();
  EXPECT_EQ(graph.nodes_of("QuantizeLinear").size(), 3U);    // input, behind the Relu, output
  EXPECT_EQ(graph.nodes_of("DequantizeLinear").size(), 6U);  // those, two weights, one bias
  EXPECT_EQ(graph.outputs()[0]->name(), "y");
  EXPECT_TRUE(graph.outputs()[0]->producer()->is("DequantizeLinear"));
  EXPECT_TRUE(graph.nodes_of("Relu")[0]->input(0)->producer()->is("Conv"));
  const auto wanted = first_output(*test::model_from_text(kConvs), data);
  EXPECT_LT(relative_distance(first_output(*run.model, data), wanted), 0.02);
}

constexpr const char* kProducts = R"(<ir_version: 8, opset_import: ["" : 11]>
g (float[N, 16] x) => (float[N, 8] y, float[N, 8] z) <float[16, 8] a = {}, float[8, 16] b = {}, float[8] c = {}> {
  y = MatMul(x, a)
  z = Gemm <transB = 1> (x, b, c)
})";

TEST(QdqInt8, ProductsShareTheRoundedInput) {
  const Dataset data = images({6, 16});
  for (const char* ranges : {"min-max", "percentile", "entropy", "mse", "cubed"}) {
    test::OptionMap options = kAll;
    options["ranges"] = ranges;
    const auto run = run_calibrated("qdq-int8", kProducts, &data, options);
    ASSERT_TRUE(run.did()) << run.changed.error().message;
    EXPECT_TRUE(verify(*run.model));
    EXPECT_EQ(run.model->opset_imports.at(""), 13);
    const Graph& graph = run.model->graph();
    EXPECT_EQ(graph.nodes_of("QuantizeLinear").size(), 1U);
    EXPECT_EQ(graph.nodes_of("Gemm")[0]->input(0), graph.nodes_of("MatMul")[0]->input(0));
    EXPECT_EQ(graph.nodes_of("Gemm")[0]->input(2)->producer()->input(0)->dtype(), DType::kInt32);
    const auto wanted = first_output(*test::model_from_text(kProducts), data);
    EXPECT_LT(relative_distance(first_output(*run.model, data), wanted), 0.03) << ranges;
  }
}

TEST(QdqInt8, AWeightReadBothWaysIsStoredForEach) {
  const Dataset data = images({6, 16});
  const char* text = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[6, 16] x) => (float[6, 16] y) <float[16, 16] w = {}, float[16] b = {}> {
  t = Transpose (w) h = MatMul(x, t) g = Gemm <transB = 1> (h, t, b) k = MatMul(g, w) y = Gemm(k, t, b)
})";
  const auto run = run_calibrated("qdq-int8", text, &data, kAll);
  ASSERT_TRUE(run.did()) << run.changed.error().message;
  EXPECT_TRUE(verify(*run.model));
  EXPECT_TRUE(run.model->graph().nodes_of("Transpose").empty());
  const auto wanted = first_output(*test::model_from_text(text), data);
  EXPECT_LT(relative_distance(first_output(*run.model, data), wanted), 0.05);
}

TEST(QdqInt8, NearMissesAndNoData) {
  const Dataset data = images({6, 16});
  for (const char* nodes :
       {"y = MatMul(x, x)", "y = MatMul(w, x)", "y = Gemm <transA = 1> (x, w)", "y = Gemm <alpha = 2.0> (x, w)"}) {
    const std::string text = std::string(
                                 "<ir_version: 8, opset_import: [\"\" : 17]> g (float[16, 16] x) => (float[16, 16] y) "
                                 "<float[16, 16] w = {}> { ") +
                             nodes + " }";
    const Dataset square = images({16, 16});
    const auto run = run_calibrated("qdq-int8", text, &square, kAll);
    ASSERT_TRUE(run.changed) << nodes;
    EXPECT_FALSE(*run.changed) << nodes;
  }
  EXPECT_FALSE(run_calibrated("qdq-int8", kProducts, nullptr).changed);
  EXPECT_FALSE(*run_calibrated("qdq-int8", kProducts, &data, {{"min-elements", "1000"}}).changed);
}

TEST(ActivationRange, ClippingAnOutlierPays) {
  Histogram h{-1, 99, std::vector<std::int64_t>(2048), 100001, true};
  for (std::size_t bin = 0; bin < 40; ++bin) h.counts[bin] = 2500;
  h.counts[2047] = 1;
  EXPECT_EQ(choose_range(h, RangeMethod::kMinMax, 0).high, 99);
  EXPECT_LT(choose_range(h, RangeMethod::kPercentile, 99.9).high, 2);
  EXPECT_LT(choose_range(h, RangeMethod::kMse, 0).high, 99);
  EXPECT_LT(choose_range(h, RangeMethod::kEntropy, 0).high, 60);
  // Clipping counts for more.
  EXPECT_LT(choose_range(h, RangeMethod::kMse, 0).high, choose_range(h, RangeMethod::kCubed, 0).high);
  for (const auto method : {RangeMethod::kMinMax, RangeMethod::kPercentile, RangeMethod::kMse, RangeMethod::kEntropy,
                            RangeMethod::kCubed}) {
    const ActivationRange range = choose_range(h, method, 99.9);
    EXPECT_LE(range.low, 0);
    EXPECT_GE(range.high, 0);
  }
}

// What Relu leaves: half of the numbers are 0, the others half of a bell curve.
TEST(ActivationRange, ZerosDoNotOutvoteTheOthers) {
  Histogram h{0, 4, std::vector<std::int64_t>(2048), 0, true};
  for (std::size_t bin = 0; bin < 2048; ++bin) {
    const double at = 4 * (static_cast<double>(bin) + 0.5) / 2048;
    h.counts[bin] = static_cast<std::int64_t>(1e4 * std::exp(-at * at / 2));
    h.total += h.counts[bin];
  }
  h.counts[0] += h.total;
  h.total *= 2;
  EXPECT_GT(choose_range(h, RangeMethod::kEntropy, 0).high, 2.5);
}

TEST(ActivationRange, PaddingIsNotSeen) {
  const auto model = test::model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[2, 3, 1] x, int64[2, 3] attention_mask) => (float[2, 3, 1] "
      "y) "
      "{ y = Neg(x) }");
  Dataset data;
  Feeds feeds;
  feeds["x"] = Datum(*to_array(Tensor::of<float>({2, 3, 1}, {1, 2, 3, 4, 5, 60}), Precision::kFloat32));
  feeds["attention_mask"] = Datum(*to_array(Tensor::of<std::int64_t>({2, 3}, {1, 1, 1, 1, 1, 0}), Precision::kFloat32));
  data.batches.push_back(std::move(feeds));
  const auto found = collect_histograms(*model, data, {"y"});
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->at("y").low, -5);
  EXPECT_EQ(found->at("y").total, 5);
}

TEST(ActivationRange, ZeroIsRepresentedExactly) {
  const Uint8Grid grid = uint8_grid({-1, 3});
  EXPECT_EQ(grid.zero, 64);
  EXPECT_NEAR(grid.scale, 4.0F / 255, 1e-7);
  EXPECT_EQ(uint8_grid({0, 0}).scale, 1.0F);
}

}  // namespace
}  // namespace onnxfold::qdq_int8_test
