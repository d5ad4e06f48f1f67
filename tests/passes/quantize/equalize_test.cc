#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/calibrated_run.h"

namespace onnxfold::equalize_test {
namespace {

using test::model_from_text;

std::string head(const std::string& inputs, const std::string& weights, const std::string& nodes) {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g " + inputs + " <" + weights + "> { " + nodes + " }";
}

// Largest weight that makes each of `channels`, or that reads it, of an initializer [out, in / groups, ...].
std::vector<double> ranges(const Model& model, const Node& node, bool reads, std::int64_t groups) {
  const Tensor& tensor = *node.input(1)->constant();
  (void)model;
  const auto numbers = *to_doubles(tensor);
  const std::int64_t out = tensor.dims()[0], in = tensor.dims()[1], rest = tensor.size() / (out * in);
  std::vector<double> most(static_cast<std::size_t>(reads ? in * groups : out));
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    const std::int64_t o = i / rest / in, c = o / (out / groups) * in + i / rest % in;
    double& to = most[static_cast<std::size_t>(reads ? c : o)];
    to = std::max(to, std::fabs(numbers[static_cast<std::size_t>(i)]));
  }
  return most;
}

// Numbers of both signs.
Dataset waves(const Model& model) {
  const Dims dims = *model.graph().inputs().front()->static_dims();
  std::vector<double> numbers(static_cast<std::size_t>(element_count(dims)));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = std::sin(static_cast<double>(i) * 1.3);
  return test::dataset_of("x", dims, numbers);
}

// The model after the pass computes what it computed before.
void expect_same_values(const Model& model, const std::string& text) {
  const auto original = model_from_text(text);
  const Dataset data = waves(*original);
  EXPECT_LT(test::relative_distance(test::first_output(model, data), test::first_output(*original, data)), 2e-6)
      << text;
}

void expect_equalized(const std::string& text) {
  const auto model = model_from_text(text);
  const auto changed = test::run_pass("equalize", *model, {});
  ASSERT_TRUE(changed) << changed.error().message;
  EXPECT_TRUE(*changed) << text;
  expect_same_values(*model, text);
  EXPECT_FALSE(*test::run_pass("equalize", *model, {})) << "a second run found more";
}

TEST(Equalize, PairsOfConvolutionsHaveEqualRanges) {
  const std::string text =
      head("(float[1, 4, 8, 8] x) => (float[1, 6, 4, 4] y)",
           "float[8, 4, 3, 3] u = {}, float[8] b = {}, float[6, 8, 3, 3] v = {}, float[6] c = {}",
           "h = Conv<pads=[1,1,1,1]>(x, u, b) r = Relu(h) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) y = "
           "Conv<pads=[1,1,1,1]>(p, v, c)");
  const auto model = model_from_text(text);
  ASSERT_TRUE(*test::run_pass("equalize", *model, {}));
  const auto convs = model->graph().nodes_of("Conv");
  const auto made = ranges(*model, *convs[0], false, 1), read = ranges(*model, *convs[1], true, 1);
  for (std::size_t i = 0; i < made.size(); ++i) EXPECT_NEAR(made[i], read[i], 2e-3 * made[i]);
}

TEST(Equalize, DepthwiseLinearAndFlattened) {
  expect_equalized(head("(float[1, 4, 8, 8] x) => (float[1, 6, 8, 8] y)",
                        "float[8, 4, 1, 1] u = {}, float[8, 1, 3, 3] d = {}, float[6, 8, 1, 1] v = {}",
                        "h = Conv(x, u) r = Relu(h) k = Conv<group=8, pads=[1,1,1,1]>(r, d) s = LeakyRelu(k) y = "
                        "Conv(s, v)"));
  expect_equalized(head("(float[1, 4, 6, 6] x) => (float[1, 5] y)", "float[8, 4, 3, 3] u = {}, float[128, 5] v = {}",
                        "h = Conv(x, u) r = Relu(h) f = Flatten(r) y = MatMul(f, v)"));
  expect_equalized(head("(float[2, 9, 16] x) => (float[2, 9, 8] y)",
                        "float[16, 12] u = {}, float[12] b = {}, float[12, 8] v = {}",
                        "h = MatMul(x, u) a = Add(b, h) r = Relu(a) y = MatMul(r, v)"));
  expect_equalized(head("(float[9, 16] x) => (float[9, 8] y)",
                        "float[12, 16] u = {}, float[12] b = {}, float[12, 8] v = {}, float[8] c = {}",
                        "h = Gemm<transB=1>(x, u, b) r = Relu(h) y = Gemm(r, v, c)"));
}

TEST(Equalize, SameFunctionAndSameOperators) {
  for (const char* nodes : {"h = Conv(x, u, b) r = Relu(h) y = Conv(r, v)",
                            "h = Conv(x, u, b) r = Relu(h) k = Conv(r, w) s = Relu(k) y = Conv(s, v)"}) {
    const std::string text = head("(float[1, 4, 8, 8] x) => (float[1, 6, N, M] y)",
                                  "float[8, 4, 3, 3] u = {}, float[8] b = {}, float[8, 8, 1, 1] w = {}, float[6, 8, 1, "
                                  "1] v = {}",
                                  nodes);
    const auto model = model_from_text(text);
    ASSERT_TRUE(*test::run_pass("equalize", *model, {}));
    EXPECT_EQ(model->graph().node_count(), model_from_text(text)->graph().node_count());
    expect_same_values(*model, text);
  }
}

TEST(Equalize, NearMisses) {
  const std::string weights = "float[8, 4, 3, 3] u = {}, float[6, 8, 3, 3] v = {}, float zero = {0}, float six = {6}";
  for (const char* nodes : {
           "h = Conv(x, u) r = Clip(h, zero, six) y = Conv(r, v)",  // not homogeneous
           "h = Conv(x, u) r = Sigmoid(h) y = Conv(r, v)",
           "h = Conv(x, u) r = Relu(h) k = Conv(r, v) s = ReduceSum(r) y = Add(k, s)",  // read twice
           "r = Relu(x) y = Conv(r, u)",
           "h = Conv(x, u) r = Relu(h) a = Conv(r, v) b = Conv(x, u) c = ReduceSum(b) y = Add(a, c)",  // shared weight
       }) {
    test::expect_unchanged("equalize", head("(float[1, 4, 8, 8] x) => (float[1, K, N, M] y)", weights, nodes), {});
  }
  // Channels are the last axis of one and the second of the other.
  test::expect_unchanged(
      "equalize",
      head("(float[1, 4, 8, 8] x) => (float[1, 8, 6, 5] y)", "float[8, 4, 3, 3] u = {}, float[6, 5] v = {}",
           "h = Conv(x, u) r = Relu(h) y = MatMul(r, v)"),
      {});
}

}  // namespace
}  // namespace onnxfold::equalize_test
