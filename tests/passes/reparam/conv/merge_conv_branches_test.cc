#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::merge_conv_branches_test {
namespace {

const std::string kPass = "merge-conv-branches";

// Doubles; four channels, images of six by five unless another input is given.
std::string net(const std::string& nodes, const std::string& initializers,
                const std::string& input = "double[N, 4, 6, 5]", const std::string& output = "double[A, B, C, D]") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (" + input + " x) => (" + output + " y) <" + initializers +
         "> { " + nodes + " }";
}
const std::string kNorm =
    ", double[4] g = {1, 2, -1, 0.5}, double[4] h = {}, double[4] m = {}, double[4] v = {1, 4, 0.5, 2}";
const std::string kBoth = "double[4, 4, 3, 3] w = {}, double[4] b = {}, double[4, 4, 1, 1] p = {}, double[4] q = {}";

TEST(MergeConvBranches, AddsOneByOneAndIdentityInTheMiddle) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 1, 4, 4] x) => (float[A, B, C, D] y)
      <float[1, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[1] b = {1}, float[1, 1, 1, 1] p = {10}> {
      c = Conv<pads = [1, 1, 1, 1]>(x, w, b) d = Conv(x, p) e = Add(c, d) y = Add(e, x) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 1, 4, 4] x) => (float[A, B, C, D] y)
      <float[1, 1, 3, 3] w = {1, 2, 3, 4, 16, 6, 7, 8, 9}, float[1] b = {1}> {
      y = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w, b) })");
}
TEST(MergeConvBranches, GivesGroupsTheirChannels) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 4, 4] x) => (float[A, B, C] y)
      <float[4, 1, 1] w = {1, 2, 3, 4}, float[4, 2, 1] v = {10, 20, 30, 40, 50, 60, 70, 80}> {
      c = Conv<group = 4>(x, w) d = Conv<group = 2>(x, v) y = Sub(d, c) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 4, 4] x) => (float[A, B, C] y)
      <float[4, 2, 1] w = {9, 20, 30, 38, 47, 60, 70, 76}> {
      y = Conv<kernel_shape = [1], group = 2>(x, w) })");
}
TEST(MergeConvBranches, RepVgg) {
  expect_operators(kPass,
                   net("c = Conv<pads = [1, 1, 1, 1], group = 2>(x, w) d = BatchNormalization(c, g, h, m, v) "
                       "e = Conv<group = 2>(x, p) f = BatchNormalization(e, h, g, h, v) "
                       "i = BatchNormalization(x, g, m, h, v) s = Add(d, f) y = Add(s, i)",
                       "double[4, 2, 3, 3] w = {}, double[4, 2, 1, 1] p = {}" + kNorm),
                   "Conv");
}
TEST(MergeConvBranches, RepMixer) {
  expect_operators(
      kPass,
      net("c = Conv<pads = [3, 3, 3, 3], group = 4>(x, w) d = Conv<group = 4>(x, p, q) "
          "s = Add(c, d) n = BatchNormalization(x, g, h, m, v) t = Sub(s, n) l = Mul(t, k) y = Add(x, l)",
          "double[4, 1, 7, 7] w = {}, double[4, 1, 1, 1] p = {}, double[4] q = {}, double[4, 1, 1] k = {}" + kNorm),
      "Conv");
}
TEST(MergeConvBranches, NormalizationOverTheSum) {
  expect_operators(kPass,
                   net("c = Conv<pads = [1, 1, 1, 1]>(x, w, b) d = Conv(x, p, q) s = Sum(c, x, d) "
                       "y = BatchNormalization(s, g, h, m, v)",
                       kBoth + kNorm),
                   "Conv");
}
TEST(MergeConvBranches, MeansScalesAndSigns) {
  expect_operators(
      kPass,
      net("c = Conv<pads = [1, 1, 1, 1]>(x, w, b) d = Conv(x, p, q) n = Neg(d) f = Div(n, k) s = Mean(c, f) "
          "y = Sub(a, s)",
          kBoth + ", double k = {3}, double[1, 4, 1, 1] a = {}"),
      "Conv");
}
TEST(MergeConvBranches, StripsOfAcNet) {
  expect_operators(kPass,
                   net("a = Conv<pads = [1, 1, 1, 1]>(x, w) b = Conv<pads = [0, 1, 0, 1]>(x, r) "
                       "c = Conv<pads = [1, 0, 1, 0]>(x, s) d = Add(a, b) y = Add(d, c)",
                       "double[4, 4, 3, 3] w = {}, double[4, 4, 1, 3] r = {}, double[4, 4, 3, 1] s = {}"),
                   "Conv");
}
TEST(MergeConvBranches, DilatedKernelInALargeOne) {
  expect_operators(
      kPass,
      net("a = Conv<pads = [4, 4, 4, 4], group = 4>(x, w) b = Conv<pads = [4, 4, 4, 4], dilations = [4, 4], "
          "group = 4>(x, r) y = Add(a, b)",
          "double[4, 1, 9, 9] w = {}, double[4, 1, 3, 3] r = {}"),
      "Conv");
}
TEST(MergeConvBranches, KeepsACommonDilation) {
  const auto model = expect_operators(kPass,
                                      net("a = Conv<pads = [2, 2, 2, 2], dilations = [2, 2]>(x, w) "
                                          "b = Conv<pads = [2, 2, 2, 2], dilations = [4, 4]>(x, r) y = Add(a, b)",
                                          "double[4, 4, 3, 3] w = {}, double[4, 4, 2, 2] r = {}"),
                                      "Conv");
  EXPECT_EQ(model->graph().nodes().front()->attr_ints("dilations"), (std::vector<std::int64_t>{2, 2}));
}
TEST(MergeConvBranches, AsymmetricAndAutomaticPads) {
  expect_operators(kPass,
                   net("a = Conv<pads = [2, 0, 0, 1]>(x, w) b = Conv<auto_pad = \"SAME_UPPER\">(x, r) y = Add(a, b)",
                       "double[4, 4, 3, 2] w = {}, double[4, 4, 2, 2] r = {}"),
                   "Conv");
  expect_operators(kPass,
                   net("a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w) "
                       "b = Conv<auto_pad = \"SAME_LOWER\", strides = [2, 2]>(x, r) y = Add(a, b)",
                       "double[4, 4, 3, 3] w = {}, double[4, 4, 3, 3] r = {}"),
                   "Conv");
}
TEST(MergeConvBranches, StridesWithImagesOfAnySize) {
  expect_operators(
      kPass,
      net("a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w) b = Conv<strides = [2, 2]>(x, r) y = Add(a, b)",
          "double[4, 4, 3, 3] w = {}, double[4, 4, 1, 1] r = {}", "double[N, 4, H, W]"),
      "Conv");
}
TEST(MergeConvBranches, AveragePools) {
  expect_operators(
      kPass,
      net("a = Conv<pads = [1, 1, 1, 1], group = 4>(x, w) "
          "b = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x) y = Sub(b, a)",
          "double[4, 1, 3, 3] w = {}"),
      "Conv");
  expect_operators(kPass,
                   net("a = Conv<strides = [2, 2], group = 4>(x, w) "
                       "b = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x) y = Add(b, a)",
                       "double[4, 1, 2, 2] w = {}"),
                   "Conv");
}
TEST(MergeConvBranches, OneAndThreeDimensions) {
  expect_operators(
      kPass,
      net("a = Conv<pads = [1, 1]>(x, w, b) b2 = Conv(x, p) s = Add(a, b2) y = Add(x, s)",
          "double[4, 4, 3] w = {}, double[4] b = {}, double[4, 4, 1] p = {}", "double[N, 4, L]", "double[A, B, C]"),
      "Conv");
  expect_operators(
      kPass,
      net("a = Conv<pads = [1, 1, 1, 1, 1, 1]>(x, w) b = Conv<pads = [0, 0, 1, 0, 0, 1]>(x, p) y = Add(a, b)",
          "double[4, 4, 3, 3, 3] w = {}, double[4, 4, 1, 1, 3] p = {}", "double[N, 4, 3, 4, 5]",
          "double[A, B, C, D, E]"),
      "Conv");
}
TEST(MergeConvBranches, ConvTransposes) {
  expect_operators(
      kPass,
      net("a = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1], group = 2>(x, w, b) "
          "b2 = ConvTranspose<strides = [2, 2], output_padding = [1, 1]>(x, p) y = Add(a, b2)",
          "double[4, 3, 3, 3] w = {}, double[6] b = {}, double[4, 6, 1, 1] p = {}"),
      "ConvTranspose");
  expect_operators(kPass,
                   net("a = ConvTranspose<pads = [1, 1, 1, 1]>(x, w) y = Add(a, x)", "double[4, 4, 3, 3] w = {}"),
                   "ConvTranspose");
}
TEST(MergeConvBranches, HeadsThatAreAveraged) {
  expect_operators(
      kPass,
      net("a = Gemm<transB = 1, alpha = 2.0>(x, w, b) c = Gemm<beta = 3.0>(x, p, b) s = Add(a, c) y = Div(s, k)",
          "double[3, 4] w = {}, double[4, 3] p = {}, double[3] b = {}, double k = {2}", "double[N, 4]", "double[A, B]"),
      "Gemm");
}
TEST(MergeConvBranches, OtherInputsStayAndAreAdded) {
  expect_operators(
      kPass,
      net("z = Relu(x) a = Conv<pads = [1, 1, 1, 1]>(x, w, b) c = Conv(x, p, q) s = Sub(a, z) t = Add(s, c) "
          "y = Mul(t, k)",
          kBoth + ", double[4, 1, 1] k = {}"),
      "Relu Conv Mul Add");
}
TEST(MergeConvBranches, TwoInputsTwoConvolutions) {
  expect_operators(
      kPass,
      net("z = Relu(x) a = Conv<pads = [1, 1, 1, 1]>(x, w, b) c = Conv(z, p, q) s = Add(a, z) t = Add(s, c) "
          "y = Add(t, x)",
          kBoth),
      "Relu Conv Conv Add");
}
TEST(MergeConvBranches, BranchesOfTwoInARow) {
  expect_operators(kPass,
                   net("a = Conv<pads = [1, 1, 1, 1]>(x, w, b) c = Conv<pads = [1, 1, 1, 1]>(x, p, q) "
                       "d = AveragePool<kernel_shape = [3, 3]>(c) e = Conv(x, p) f = Conv<pads = [1, 1, 1, 1]>(e, w) "
                       "s = Add(a, d) y = Add(s, f)",
                       kBoth),
                   "Conv");
}
TEST(MergeConvBranches, WeightsThatTwoBranchesShare) {
  expect_operators(kPass, net("z = Relu(x) a = Conv(x, p) c = Conv(z, p) s = Add(a, x) y = Add(s, c)", kBoth),
                   "Relu Conv Conv Add");
}
TEST(MergeConvBranches, InnerSumsOfATreeThatDoesNotGain) {
  expect_operators(kPass,
                   net("z = Relu(x) a = Conv(x, p, q) c = Conv(z, p) d = Add(z, c) r = Sigmoid(z) s = Add(d, r) "
                       "y = Mul(s, k)",
                       kBoth + ", double[4, 1, 1] k = {}"),
                   "Relu Conv Sigmoid Conv Mul Add");
}

// ---- near misses ----

void expect_kept(const std::string& nodes, const std::string& initializers = kBoth,
                 const std::string& input = "double[N, 4, 6, 5]") {
  expect_unchanged(kPass, net(nodes, initializers, input));
}

TEST(MergeConvBranches, KeepsWhatIsReadElsewhere) {
  expect_kept(
      "a = Conv<pads = [1, 1, 1, 1]>(x, w) c = Conv(x, p) r = Relu(a) q2 = Relu(c) s = Add(a, c) t = Add(s, r) y = "
      "Mul(t, q2)");
  expect_kept("a = Conv<pads = [1, 1, 1, 1]>(x, w) t = Add(a, x) r = Relu(a) y = Mul(t, r)");
  expect_unchanged(
      kPass,
      R"(<ir_version: 8, opset_import: ["": 17]> g (double[N, 4, 6, 5] x) => (double[A, B, C, D] y, double[E, F, G, H] a)
      <double[4, 4, 1, 1] w = {}> { a = Conv(x, w) y = Add(a, x) })");
}
TEST(MergeConvBranches, KeepsWhatASubgraphCaptures) {
  expect_unchanged(kPass,
                   R"(<ir_version: 8, opset_import: ["": 17]> g (double[N, 4, 6, 5] x, bool c) => (double[A, B, C, D] y)
      <double[4, 4, 1, 1] w = {}> { a = Conv(x, w)
      d = If(c) <then_branch = t () => (double[A, B, C, D] e) { e = Relu(a) }, else_branch = f () => (double[A, B, C, D] h) { h = Neg(a) }>
      s = Add(a, x) y = Mul(s, d) })");
}
TEST(MergeConvBranches, KeepsVariableWeights) {
  expect_unchanged(
      kPass,
      R"(<ir_version: 8, opset_import: ["": 17]> g (double[N, 4, 6, 5] x, double[4, 4, 1, 1] w) => (double[A, B, C, D] y) {
      a = Conv(x, w) y = Add(a, x) })");
}
TEST(MergeConvBranches, KeepsOtherStridesAndInputs) {
  expect_kept("z = Relu(x) a = Conv<pads = [1, 1, 1, 1]>(x, w) c = Conv(z, p) y = Add(a, c)");
  expect_kept("a = Conv<strides = [2, 1], pads = [1, 1, 1, 1]>(x, w) c = Conv<strides = [1, 2]>(x, p) y = Add(a, c)",
              kBoth, "double[N, 4, 1, 1]");
}
TEST(MergeConvBranches, KeepsWhatOnlyFitsSomeSizes) {
  const std::string strided =
      "a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w) c = Conv<strides = [2, 2], pads = [0, 0, 1, 1]>(x, p) y = "
      "Add(a, c)";
  expect_kept(strided, kBoth, "double[N, 4, H, W]");
  expect_operators(kPass, net(strided, kBoth, "double[N, 4, 7, 9]"), "Conv");
}
TEST(MergeConvBranches, KeepsResultsThatAreWidened) {
  expect_kept("a = Conv(x, w) c = Conv(x, p) y = Add(a, c)", kBoth, "double[N, 4, 3, 3]");
  expect_kept("a = Conv(x, w) c = Conv(x, p) y = Add(a, c)", "double[1, 4, 1, 1] w = {}, double[4, 4, 1, 1] p = {}");
  expect_kept("a = Conv(x, w) y = Add(a, x)", "double[4, 1, 1, 1] w = {}", "double[N, 1, 4, 4]");
}
TEST(MergeConvBranches, KeepsTwoInARowWithPaddingBetween) {
  expect_kept(
      "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) c = Conv(x, p, q) d = Conv<pads = [1, 1, 1, 1]>(c, w) y = Add(a, d)");
  expect_kept(
      "a = Conv<pads = [1, 1, 1, 1]>(x, w) c = Conv(x, p) "
      "d = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(c) y = Add(a, d)");
}
TEST(MergeConvBranches, KeepsNumbersThatVaryElsewhere) {
  expect_kept("a = Conv(x, p) y = Mul(a, k)", kBoth + ", double[5] k = {}");
  expect_kept("a = Conv(x, p) y = Add(a, k)", kBoth + ", double[4, 6, 5] k = {}");
  expect_kept("a = Conv(x, p) y = Mul(a, k)", kBoth + ", double[4] k = {}", "double[N, 4, 4, 4]");
}
TEST(MergeConvBranches, KeepsDivisionByZero) {
  expect_kept("a = Conv(x, p) y = Div(a, k)", kBoth + ", double[4, 1, 1] k = {1, 0, 2, 3}");
  expect_kept("a = Conv(x, p) y = Div(k, a)", kBoth + ", double[4, 1, 1] k = {1, 2, 2, 3}");
}
TEST(MergeConvBranches, KeepsTraining) {
  expect_kept("a = Conv(x, p) y, r, s = BatchNormalization<training_mode = 1>(a, g, h, m, v)", kBoth + kNorm);
}
TEST(MergeConvBranches, KeepsPoolsThatDoNotCountTheirPads) {
  const std::string conv = "a = Conv<pads = [1, 1, 1, 1], group = 4>(x, w) y = Add(a, c) ";
  const std::string weight = "double[4, 1, 3, 3] w = {}";
  const auto kept = [&](const std::string& attributes) {
    expect_kept("c = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]" + attributes + ">(x) " + conv, weight);
  };
  kept("");
  kept(", count_include_pad = 0");
  kept(", count_include_pad = 1, ceil_mode = 1");
  expect_kept("c = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x) " + conv, weight);
  expect_kept("c = AveragePool<kernel_shape = [1, 1]>(x) d = AveragePool<kernel_shape = [1, 1]>(c) y = Relu(d)",
              weight);
}
TEST(MergeConvBranches, KeepsWhatWouldCostMore) {
  const std::string nodes = "a = Conv<pads = [4, 4, 4, 4], group = 4>(x, w) c = Conv(x, p) y = Add(a, c)";
  const std::string weights = "double[4, 1, 9, 9] w = {}, double[4, 4, 1, 1] p = {}";
  expect_kept(nodes, weights);
  expect_operators(kPass, net(nodes, weights), "Conv", {{"max-extra-work", "1000"}});
}
TEST(MergeConvBranches, KeepsUnknownChannels) {
  expect_kept("a = Conv(x, p) r = Resize(a, , s) y = Add(r, z)",
              kBoth + ", float[4] s = {1, 1, 1, 1}, double[1] z = {2}", "double[N, 4, 6, 5]");
  expect_unchanged(kPass,
                   R"(<ir_version: 8, opset_import: ["": 17]> g (double[N, M] x, int64[4] s) => (double[A, B, C, D] y)
      <double[4, 4, 1, 1] w = {}, double[4] k = {}> { r = Reshape(x, s) a = Conv(r, w) y = Add(a, r) })");
}
// Numbers of float16 are written as bits: 31743 is 65504.
TEST(MergeConvBranches, KeepsWhatHalfPrecisionCannotHold) {
  expect_unchanged(kPass,
                   R"(<ir_version: 8, opset_import: ["": 17]> g (float16[N, 1, 2, 2] x) => (float16[A, B, C, D] y)
      <float16[1, 1, 1, 1] w = {31743}, float16[1, 1, 1, 1] p = {31743}> { a = Conv(x, w) c = Conv(x, p) y = Add(a, c) })");
}
TEST(MergeConvBranches, KeepsSumsWithoutConvolution) {
  expect_kept("z = Relu(x) a = Add(x, z) c = Mul(a, k) y = Add(c, c)", "double[4, 1, 1] k = {}");
}

}  // namespace
}  // namespace onnxfold::test::merge_conv_branches_test
