#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "ir/verify.h"
#include "tests/support/calibrated_run.h"

namespace onnxfold::smooth_test {
namespace {

using test::first_output;
using test::relative_distance;
using test::run_calibrated;

// Channel 3 is a hundred times larger than the others.
Dataset outliers() {
  std::vector<double> numbers(6 * 16);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = std::sin(static_cast<double>(i) * 1.3) * (i % 16 == 3 ? 100 : 1);
  }
  Dataset data;
  Feeds feeds;
  feeds["x"] = Datum(*to_array(*from_doubles(DType::kFloat32, {6, 16}, numbers), Precision::kFloat32));
  data.batches.push_back(std::move(feeds));
  data.batch_sizes.push_back(6);
  return data;
}

std::string graph(const std::string& nodes) {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[6, 16] x) => (float[6, 8] y) <float[16] g = {}, "
         "float[16] b = {}, float[16, 8] v = {}, float[16, 8] w = {}, float[16, 16] u = {}, float[16] c = {}> { " +
         nodes + " }";
}

void expect_smoothed(const std::string& text) {
  const Dataset data = outliers();
  const auto run = run_calibrated("smooth", text, &data);
  ASSERT_TRUE(run.did()) << text;
  EXPECT_TRUE(verify(*run.model));
  const auto before = test::model_from_text(text);
  EXPECT_EQ(run.model->graph().node_count(), before->graph().node_count());
  EXPECT_LT(relative_distance(first_output(*run.model, data), first_output(*before, data)), 1e-5);
}

// `exclude` of a quantizer behind it means the weights by the names that the user knows.
TEST(Smooth, ParametersKeepTheirNames) {
  const Dataset data = outliers();
  const auto run = run_calibrated(
      "smooth", graph("n = LayerNormalization(x, g, b) p = MatMul(n, v) q = MatMul(n, w) y = Add(p, q)"), &data);
  ASSERT_TRUE(run.did());
  for (const char* name : {"g", "b", "v", "w"}) {
    const Value* value = run.model->graph().find(name);
    EXPECT_TRUE(value != nullptr && value->constant() != nullptr) << name;
  }
}

TEST(Smooth, NormInFrontOfSeveralLinears) {
  expect_smoothed(graph("n = LayerNormalization(x, g, b) p = MatMul(n, v) q = MatMul(n, w) y = Add(p, q)"));
}

TEST(Smooth, ALinearTimesSomethingAndALinearCutAtZero) {
  expect_smoothed(graph("s = Sigmoid(x) h = Gemm(x, u, c) m = Mul(s, h) y = MatMul(m, v)"));
  expect_smoothed(graph("h = Gemm(x, u, c) r = Relu(h) y = MatMul(r, v)"));
}

// Exports of three-dimensional Linears write Gemm between two Reshapes, and ask for shapes on the way.
TEST(Smooth, RowsMoveBetweenNormOrLinearAndReaders) {
  expect_smoothed(
      graph("n = LayerNormalization(x, g, b) t = Constant <value_ints = [2, 3, 16]> () "
            "m = Reshape(n, t) s = Shape(n) f = Constant <value_ints = [-1, 16]> () "
            "r = Reshape(m, f) p = Gemm(r, v) d = Cast <to = 1> (s) e = ReduceMax <keepdims = 0> (d) "
            "y = Add(p, e)"));
  expect_smoothed(
      graph("h = Gemm(x, u, c) t = Constant <value_ints = [2, 3, 16]> () m = Reshape(h, t) r = Relu(m) "
            "f = Constant <value_ints = [6, 16]> () k = Reshape(r, f) y = MatMul(k, v)"));
}

TEST(Smooth, RowsCutAnewAreNoRows) {
  const Dataset data = outliers();
  const std::string text = graph(
      "n = LayerNormalization(x, g, b) t = Constant <value_ints = [12, 8]> () "
      "m = Reshape(n, t) f = Constant <value_ints = [6, 16]> () r = Reshape(m, f) "
      "y = MatMul(r, v)");
  EXPECT_FALSE(*run_calibrated("smooth", text, &data).changed);
}

TEST(Smooth, ChannelsBecomeMoreAlike) {
  const Dataset data = outliers();
  const std::string text = graph("h = Gemm(x, u, c) r = Relu(h) y = MatMul(r, v)");
  const auto spread = [&](const Model& model) {
    ExecutorOptions options;
    options.taps = {"r"};
    const auto result = (*Executor::create(model, options))->run(data.batches[0]);
    const auto numbers = *to_doubles(result->taps.at("r").array);
    std::vector<double> largest(16);
    for (std::size_t i = 0; i < numbers.size(); ++i) largest[i % 16] = std::max(largest[i % 16], numbers[i]);
    double least = 1e30, most = 0;
    for (const double x : largest) {
      if (x > 0) least = std::min(least, x);
      most = std::max(most, x);
    }
    return most / least;
  };
  EXPECT_LT(spread(*run_calibrated("smooth", text, &data).model), spread(*test::model_from_text(text)));
}

TEST(Smooth, NearMisses) {
  const Dataset data = outliers();
  for (const char* nodes : {
           "n = LayerNormalization(x, g, b) p = MatMul(n, v) q = MatMul(n, w) r = Add(p, q) t = ReduceSum(n) y = "
           "Add(r, t)",
           "h = Gemm(x, u, c) r = Tanh(h) y = MatMul(r, v)",
           "h = Gemm(x, u, c) r = Relu(h) p = MatMul(r, v) s = ReduceSum(h) y = Add(p, s)",
           "y = MatMul(x, v)",
       }) {
    const auto run = run_calibrated("smooth", graph(nodes), &data);
    ASSERT_TRUE(run.changed) << nodes;
    EXPECT_FALSE(*run.changed) << nodes;
  }
  EXPECT_FALSE(run_calibrated("smooth", graph("y = MatMul(x, v)"), nullptr).changed);
}

}  // namespace
}  // namespace onnxfold::smooth_test
