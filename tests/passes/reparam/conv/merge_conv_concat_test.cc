#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::merge_conv_concat_test {
namespace {

const std::string kPass = "merge-conv-concat";

std::string net(const std::string& nodes, const std::string& initializers,
                const std::string& input = "double[N, 4, 7, 6]", const std::string& output = "double[A, B, C, D]") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (" + input + " x) => (" + output + " y) <" + initializers +
         "> { " + nodes + " }";
}
void expect_kept(const std::string& nodes, const std::string& initializers,
                 const std::string& input = "double[N, 4, 7, 6]") {
  expect_unchanged(kPass, net(nodes, initializers, input));
}
const std::string kTwo = "double[3, 4, 1, 1] p = {}, double[3] b = {}, double[2, 4, 1, 1] q = {}";

TEST(MergeConvConcat, StacksWeightsAndBiases) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 4] x) => (float[A, B, C] y)
      <float[1, 2, 1] w = {1, 2}, float[1] b = {9}, float[2, 2, 1] v = {3, 4, 5, 6}> {
      c = Conv(x, w, b) d = Conv(x, v) y = Concat<axis = 1>(c, d) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 4] x) => (float[A, B, C] y)
      <float[3, 2, 1] w = {1, 2, 3, 4, 5, 6}, float[3] b = {9, 0, 0}> {
      y = Conv<kernel_shape = [1]>(x, w, b) })");
}
TEST(MergeConvConcat, NeighboursAmongOthers) {
  expect_operators(kPass,
                   net("c = Conv(x, p, b) d = Conv(x, q) e = Relu(x) f = Conv(x, q) "
                       "y = Concat<axis = -3>(x, c, d, e, f)",
                       kTwo),
                   "Relu Conv Conv Concat");
}
TEST(MergeConvConcat, ThroughTheSameActivation) {
  expect_operators(
      kPass,
      net("c = Conv<strides = [2, 2]>(x, p, b) e = LeakyRelu<alpha = 0.3>(c) d = Conv<strides = [2, 2]>(x, q) "
          "f = LeakyRelu<alpha = 0.3>(d) y = Concat<axis = 1>(e, f)",
          kTwo),
      "Conv LeakyRelu");
}
TEST(MergeConvConcat, KernelsOfOtherSizes) {
  expect_operators(
      kPass,
      net("c = Conv<pads = [1, 1, 1, 1]>(x, p, b) d = Conv<pads = [1, 0, 1, 0]>(x, q) y = Concat<axis = 1>(c, d)",
          "double[9, 4, 3, 3] p = {}, double[9] b = {}, double[2, 4, 3, 1] q = {}"),
      "Conv");
}
TEST(MergeConvConcat, TransposedConvolutionsAndMatrices) {
  expect_operators(kPass,
                   net("c = ConvTranspose<strides = [2, 2]>(x, p) d = ConvTranspose<strides = [2, 2]>(x, q) "
                       "y = Concat<axis = 1>(c, d)",
                       "double[4, 3, 2, 2] p = {}, double[4, 1, 2, 2] q = {}"),
                   "ConvTranspose");
  expect_operators(kPass,
                   net("c = Gemm(x, p, b) d = Gemm<transB = 1>(x, q) y = Concat<axis = -1>(c, d)",
                       "double[4, 3] p = {}, double b = {2}, double[2, 4] q = {}", "double[N, 4]", "double[A, B]"),
                   "Gemm");
}

TEST(MergeConvConcat, KeepsOtherAxesAndInputs) {
  expect_kept("c = Conv(x, p) d = Conv(x, q) y = Concat<axis = 2>(c, d)",
              "double[3, 4, 1, 1] p = {}, double[3, 4, 1, 1] q = {}");
  expect_kept("r = Relu(x) c = Conv(x, p) d = Conv(r, q) y = Concat<axis = 1>(c, d)", kTwo);
  expect_kept("c = Conv(x, p) d = Conv(x, q) y = Concat<axis = 1>(c, x, d)", kTwo);
}
TEST(MergeConvConcat, KeepsOtherActivations) {
  expect_kept("c = Conv(x, p) d = Conv(x, q) e = Relu(c) y = Concat<axis = 1>(e, d)", kTwo);
  expect_kept("c = Conv(x, p) d = Conv(x, q) e = Relu(c) f = Sigmoid(d) y = Concat<axis = 1>(e, f)", kTwo);
  expect_kept("c = Conv(x, p) d = Conv(x, q) e = Elu<alpha = 0.5>(c) f = Elu(d) y = Concat<axis = 1>(e, f)", kTwo);
  expect_kept(
      "c = Conv(x, p) d = Conv(x, q) e = Softmax<axis = 1>(c) f = Softmax<axis = 1>(d) y = Concat<axis = 1>(e, f)",
      kTwo);
}
TEST(MergeConvConcat, KeepsGroups) {
  expect_kept("c = Conv<group = 4>(x, p) d = Conv<group = 4>(x, q) y = Concat<axis = 1>(c, d)",
              "double[4, 1, 1, 1] p = {}, double[4, 1, 1, 1] q = {}");
}
TEST(MergeConvConcat, KeepsOtherStridesAndKernelsThatCostMore) {
  expect_kept("c = Conv<strides = [2, 2]>(x, p) d = Conv<strides = [1, 1]>(x, q) y = Concat<axis = 1>(c, d)", kTwo,
              "double[N, 4, 1, 1]");
  expect_kept("c = Conv<pads = [1, 1, 1, 1]>(x, p) d = Conv(x, q) y = Concat<axis = 1>(c, d)",
              "double[3, 4, 3, 3] p = {}, double[5, 4, 1, 1] q = {}");
}
TEST(MergeConvConcat, KeepsWhatIsReadElsewhere) {
  expect_kept("c = Conv(x, p) d = Conv(x, q) r = Relu(c) y = Concat<axis = 1>(c, d, r)", kTwo);
  expect_kept("c = Conv(x, p) y = Concat<axis = 1>(c, c)", kTwo);
  expect_unchanged(
      kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (double[N, 4, 6] x) => (double[A, B, C] y, double[E, F, G] c)
      <double[2, 4, 1] w = {}, double[3, 4, 1] v = {}> { c = Conv(x, w) d = Conv(x, v) y = Concat<axis = 1>(c, d) })");
}
TEST(MergeConvConcat, KeepsVariableWeights) {
  expect_unchanged(
      kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (double[N, 4, 6] x, double[2, 4, 1] w) => (double[A, B, C] y)
      <double[3, 4, 1] v = {}> { c = Conv(x, w) d = Conv(x, v) y = Concat<axis = 1>(c, d) })");
}

}  // namespace
}  // namespace onnxfold::test::merge_conv_concat_test
