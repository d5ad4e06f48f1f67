#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::merge_conv_chain_test {
namespace {

const std::string kPass = "merge-conv-chain";

std::string net(const std::string& nodes, const std::string& initializers,
                const std::string& input = "double[N, 4, 7, 6]", const std::string& output = "double[A, B, C, D]") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (" + input + " x) => (" + output + " y) <" + initializers +
         "> { " + nodes + " }";
}
void expect_kept(const std::string& nodes, const std::string& initializers,
                 const std::string& input = "double[N, 4, 7, 6]") {
  expect_unchanged(kPass, net(nodes, initializers, input));
}
// Eight channels between four and four.
const std::string kWide = "double[8, 4, 1, 1] p = {}, double[8] q = {}, double[4, 8, 3, 3] w = {}, double[4] b = {}";

TEST(MergeConvChain, TwoPointwise) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 1, 4] x) => (float[A, B, C] y)
      <float[2, 1, 1] w = {2, 3}, float[2] a = {1, 10}, float[1, 2, 1] v = {5, 7}, float[1] b = {4}> {
      c = Conv(x, w, a) y = Conv(c, v, b) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 1, 4] x) => (float[A, B, C] y)
      <float[1, 1, 1] w = {31}, float[1] b = {79}> { y = Conv<kernel_shape = [1]>(x, w, b) })");
}
TEST(MergeConvChain, PointwiseThenLarge) {
  expect_operators(kPass, net("c = Conv(x, p, q) y = Conv(c, w, b)", kWide), "Conv");
  expect_operators(kPass, net("c = Conv<pads = [1, 1, 1, 1]>(x, p, q) y = Conv<strides = [2, 1]>(c, w, b)", kWide),
                   "Conv");
  expect_operators(kPass, net("c = Conv(x, p) y = Conv<pads = [1, 1, 1, 1]>(c, w, b)", kWide), "Conv");
  expect_operators(kPass,
                   net("c = Conv(x, p, z) y = Conv<pads = [2, 1, 0, 1], dilations = [1, 2]>(c, w, b)",
                       kWide + ", double[8] z = {0, 0, 0, 0, 0, 0, 0, 0}"),
                   "Conv");
}
TEST(MergeConvChain, LargeThenPointwise) {
  expect_operators(kPass,
                   net("c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, q) y = Conv(c, p, b)",
                       "double[8, 4, 3, 3] w = {}, double[8] q = {}, double[4, 8, 1, 1] p = {}, double[4] b = {}"),
                   "Conv");
}
TEST(MergeConvChain, StridesMultiply) {
  const auto model = expect_operators(
      kPass, net("c = Conv<strides = [2, 1]>(x, p) y = Conv<pads = [1, 1, 1, 1], strides = [1, 2]>(c, w, b)", kWide),
      "Conv");
  EXPECT_EQ(model->graph().nodes().front()->attr_ints("strides"), (std::vector<std::int64_t>{2, 2}));
  EXPECT_EQ(model->graph().nodes().front()->attr_ints("dilations"), (std::vector<std::int64_t>{2, 1}));
}
TEST(MergeConvChain, ImagesOfAnySize) {
  expect_operators(kPass,
                   net("c = Conv<strides = [2, 2]>(x, p) y = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(c, w, b)",
                       kWide, "double[N, 4, H, W]"),
                   "Conv");
}
TEST(MergeConvChain, Groups) {
  expect_operators(kPass,
                   net("c = Conv<group = 2>(x, p, q) y = Conv<group = 2>(c, w, b)",
                       "double[8, 2, 1, 1] p = {}, double[8] q = {}, double[4, 4, 3, 3] w = {}, double[4] b = {}"),
                   "Conv");
  expect_operators(kPass,
                   net("c = Conv<group = 4>(x, p, q) y = Conv<group = 2>(c, w)",
                       "double[4, 1, 1, 1] p = {}, double[4] q = {}, double[6, 2, 3, 3] w = {}"),
                   "Conv");
}
TEST(MergeConvChain, OneDimension) {
  expect_operators(
      kPass,
      net("c = Conv(x, p, q) y = Conv<dilations = [2]>(c, w)",
          "double[8, 4, 1] p = {}, double[8] q = {}, double[4, 8, 3] w = {}", "double[N, 4, 9]", "double[A, B, C]"),
      "Conv");
}

TEST(MergeConvChain, KeepsPaddingOfABiasedMap) {
  expect_kept("c = Conv(x, p, q) y = Conv<pads = [1, 1, 1, 1]>(c, w, b)", kWide);
  expect_kept("c = Conv(x, p, q) y = Conv<auto_pad = \"SAME_LOWER\">(c, w, b)", kWide);
}
TEST(MergeConvChain, KeepsPaddingThatALargeKernelWouldFill) {
  expect_kept("c = Conv<pads = [1, 1, 1, 1]>(x, w) y = Conv<pads = [1, 1, 1, 1]>(c, p)",
              "double[8, 4, 3, 3] w = {}, double[4, 8, 1, 1] p = {}");
}
TEST(MergeConvChain, KeepsWhatWouldCostMore) {
  expect_kept("c = Conv(x, p) y = Conv<group = 4>(c, w)", "double[4, 4, 1, 1] p = {}, double[4, 1, 3, 3] w = {}");
  expect_kept("c = Conv<group = 4>(x, w) y = Conv(c, p)", "double[4, 4, 1, 1] p = {}, double[4, 1, 3, 3] w = {}");
  expect_kept("c = Conv(x, p) y = Conv(c, w)", "double[1, 4, 1, 1] p = {}, double[4, 1, 1, 1] w = {}");
  expect_kept("c = Conv(x, p) y = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(c)",
              "double[4, 4, 1, 1] p = {}");
  expect_kept("c = AveragePool<kernel_shape = [2, 2]>(x) y = AveragePool<kernel_shape = [2, 2]>(c)",
              "double[4, 4, 1, 1] p = {}");
}
TEST(MergeConvChain, KeepsWhatIsReadElsewhere) {
  expect_kept("c = Conv(x, p, q) d = Conv(c, w, b) e = Conv(c, w, b) y = Add(d, e)", kWide);
  expect_unchanged(
      kPass,
      R"(<ir_version: 8, opset_import: ["": 17]> g (double[N, 4, 6, 5] x) => (double[A, B, C, D] y, double[E, F, G, H] c)
      <double[8, 4, 1, 1] w = {}, double[4, 8, 1, 1] v = {}> { c = Conv(x, w) y = Conv(c, v) })");
}
TEST(MergeConvChain, KeepsAnOperatorBetweenAndVariableWeights) {
  expect_kept("c = Conv(x, p, q) r = Relu(c) y = Conv(r, w, b)", kWide);
  expect_unchanged(
      kPass,
      R"(<ir_version: 8, opset_import: ["": 17]> g (double[N, 4, 6, 5] x, double[8, 4, 1, 1] w) => (double[A, B, C, D] y)
      <double[4, 8, 1, 1] v = {}> { c = Conv(x, w) y = Conv(c, v) })");
}
TEST(MergeConvChain, KeepsTransposedConvolutions) {
  expect_kept("c = ConvTranspose(x, p) y = Conv(c, w)", "double[4, 8, 1, 1] p = {}, double[4, 8, 1, 1] w = {}");
}

}  // namespace
}  // namespace onnxfold::test::merge_conv_chain_test
