#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::fold_input_affine_test {
namespace {

const std::string kPass = "fold-input-affine";
const std::string kNorm =
    ", double[4] g = {1, 2, -1, 0.5}, double[4] h = {}, double[4] m = {}, double[4] v = {1, 4, 0.5, 2}";

std::string net(const std::string& nodes, const std::string& initializers,
                const std::string& input = "double[N, 4, 6, 5]", const std::string& output = "double[A, B, C, D]") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (" + input + " x) => (" + output + " y) <" + initializers +
         "> { " + nodes + " }";
}
void expect_kept(const std::string& nodes, const std::string& initializers,
                 const std::string& input = "double[N, 4, 6, 5]") {
  expect_unchanged(kPass, net(nodes, initializers, input));
}

TEST(FoldInputAffine, IntoConv) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 4, 4] x) => (float[A, B, C, D] y)
      <float[1, 2, 1, 2] w = {1, 2, 3, 4}, float[1] b = {1}, float[2, 1, 1] t = {10, 100}> {
      a = Add(x, t) y = Conv(a, w, b) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 4, 4] x) => (float[A, B, C, D] y)
      <float[1, 2, 1, 2] w = {1, 2, 3, 4}, float[1] b = {731}> { y = Conv<kernel_shape = [1, 2]>(x, w, b) })");
}
TEST(FoldInputAffine, NormalizationIntoAllItsReaders) {
  expect_operators(
      kPass,
      net("a = BatchNormalization(x, g, h, m, v) c = Conv<group = 2>(a, w) d = Conv(a, p, q) y = Mul(c, d)",
          "double[4, 2, 1, 1] w = {}, double[4, 4, 1, 1] p = {}, double[4] q = {}" + kNorm),
      "Conv Conv Mul");
}
TEST(FoldInputAffine, NormalizationIntoGemm) {
  expect_operators(kPass,
                   net("a = BatchNormalization(x, g, h, m, v) y = Gemm<alpha = 0.5>(a, w, b)",
                       "double[4, 3] w = {}, double[1, 3] b = {}" + kNorm, "double[N, 4]", "double[A, B]"),
                   "Gemm");
}
TEST(FoldInputAffine, FactorsIntoPaddedConvolutions) {
  expect_operators(kPass,
                   net("a = Mul(k, x) n = Neg(a) y = Conv<pads = [1, 1, 1, 1], group = 4>(n, w)",
                       "double[4, 1, 3, 3] w = {}, double[4, 1, 1] k = {}"),
                   "Conv");
  expect_operators(kPass,
                   net("a = Div(x, k) y = ConvTranspose<strides = [2, 2]>(a, w)",
                       "double[4, 3, 3, 3] w = {}, double[1, 4, 1, 1] k = {1, 2, 3, 4}"),
                   "ConvTranspose");
}
TEST(FoldInputAffine, OneDimension) {
  expect_operators(kPass,
                   net("a = BatchNormalization(x, g, h, m, v) y = Conv<strides = [2]>(a, w)",
                       "double[3, 4, 3] w = {}" + kNorm, "double[N, 4, 9]", "double[A, B, C]"),
                   "Conv");
}
TEST(FoldInputAffine, TheFactorOfAShiftThatMustStay) {
  expect_operators(kPass,
                   net("a = Sub(x, k) b = Div(a, l) y = Conv<pads = [1, 1, 1, 1]>(b, w)",
                       "double[4, 4, 3, 3] w = {}, double[4, 1, 1] k = {}, double[4, 1, 1] l = {1, 2, 3, 4}"),
                   "Sub Conv");
}

TEST(FoldInputAffine, KeepsShiftsBeforePadding) {
  expect_kept("a = BatchNormalization(x, g, h, m, v) y = Conv<pads = [0, 0, 0, 1]>(a, w)",
              "double[4, 4, 3, 3] w = {}" + kNorm);
  expect_kept("a = BatchNormalization(x, g, h, m, v) y = Conv<auto_pad = \"SAME_UPPER\">(a, w)",
              "double[4, 4, 3, 3] w = {}" + kNorm);
  expect_kept("a = BatchNormalization(x, g, h, m, v) y = ConvTranspose(a, w)", "double[4, 4, 3, 3] w = {}" + kNorm);
}
TEST(FoldInputAffine, KeepsWhatIsReadElsewhere) {
  const std::string weights = "double[4, 4, 1, 1] w = {}" + kNorm;
  expect_kept("a = BatchNormalization(x, g, h, m, v) c = Conv(a, w) y = Add(a, c)", weights);
  expect_kept(
      "a = BatchNormalization(x, g, h, m, v) c = Conv(a, w) d = AveragePool<kernel_shape = [1, 1]>(a) y = Add(d, c)",
      weights);
  expect_unchanged(
      kPass,
      R"(<ir_version: 8, opset_import: ["": 17]> g (double[N, 4, 6, 5] x) => (double[A, B, C, D] y, double[E, F, G, H] a)
      <double[4, 4, 1, 1] w = {}, double k = {2}> { a = Mul(x, k) y = Conv(a, w) })");
}
TEST(FoldInputAffine, KeepsWhatASubgraphCaptures) {
  expect_unchanged(kPass,
                   R"(<ir_version: 8, opset_import: ["": 17]> g (double[N, 4, 6, 5] x, bool c) => (double[A, B, C, D] y)
      <double[4, 4, 1, 1] w = {}, double k = {2}> { a = Mul(x, k) b = Conv(a, w)
      d = If(c) <then_branch = t () => (double[A, B, C, D] e) { e = Relu(a) }, else_branch = f () => (double[A, B, C, D] h) { h = Neg(a) }>
      y = Mul(b, d) })");
}
TEST(FoldInputAffine, KeepsNumbersAlongOtherAxesAndWidening) {
  const std::string weights = "double[4, 4, 1, 1] w = {}, ";
  expect_kept("a = Add(x, k) y = Conv(a, w)", weights + "double[5] k = {}");
  expect_kept("a = Add(x, k) y = Conv(a, w)", weights + "double[4] k = {}", "double[N, 4, 4, 4]");
  expect_kept("a = Mul(x, k) y = Conv(a, w)", weights + "double[4, 1, 1] k = {}", "double[N, 1, 4, 4]");
  expect_kept("a = Div(k, x) y = Conv(a, w)", weights + "double[4, 1, 1] k = {}");
}
TEST(FoldInputAffine, KeepsVariableWeightsAndNumbers) {
  expect_unchanged(kPass, R"(<ir_version: 8, opset_import: ["": 17]>
      g (double[N, 4, 6, 5] x, double[4, 4, 1, 1] w, double[4, 1, 1] k) => (double[A, B, C, D] y)
      <double l = {2}, double[4, 4, 1, 1] p = {}> { a = Mul(x, l) b = Conv(a, w) c = Mul(x, k) d = Conv(c, p) y = Add(b, d) })");
}
TEST(FoldInputAffine, KeepsNormalizedWeightOperand) {
  expect_unchanged(kPass,
                   R"(<ir_version: 8, opset_import: ["": 17]> g (double[N, 4] x, double[4, 4] z) => (double[A, B] y)
      <double k = {2}, double[4, 3] w = {}> { a = Mul(x, k) b = Gemm(z, a) c = Mul(z, k) y = Gemm<transA = 1>(c, w) })");
}

const std::string kNormed = "a = BatchNormalization(x, g, h, m, v) ";
const std::string kTokens = kNormed + "r = Reshape(a, s) t = Transpose<perm = [0, 2, 1]>(r) ";
TEST(FoldInputAffine, NormalizationIntoTheProductOfTokens) {
  const std::string weights = "int64[3] s = {0, 4, 30}, double[4, 7] w = {}" + kNorm;
  expect_operators(kPass, net(kTokens + "y = MatMul(t, w)", weights, "double[N, 4, 6, 5]", "double[A, B, C]"),
                   "Reshape Transpose MatMul Add");
  expect_operators(kPass,
                   net(kTokens + "p = MatMul(t, w) y = Add(b, p)", weights + ", double[7] b = {}", "double[2, 4, 6, 5]",
                       "double[A, B, C]"),
                   "Reshape Transpose MatMul Add");
  // A factor alone needs no bias: two products without one.
  expect_operators(
      kPass,
      net("a = Mul(x, k) r = Reshape(a, s) t = Transpose<perm = [0, 2, 1]>(r) "
          "p = MatMul(t, w) q = MatMul(t, u) y = Add(p, q)",
          weights + ", double[4, 7] u = {}, double[4, 1, 1] k = {}", "double[1, 4, 6, 5]", "double[A, B, C]"),
      "Reshape Transpose MatMul MatMul Add", {});
}
TEST(FoldInputAffine, NormalizationIntoTheClassifierBehindAPool) {
  const std::string weights = "double[4, 3] w = {}, double[3] b = {}" + kNorm;
  const auto pooled = [&](const std::string& pool, const std::string& operators, const std::string& more = "") {
    expect_operators(kPass,
                     net(kNormed + pool + " y = Gemm(f, w, b)", weights + more, "double[N, 4, 6, 5]", "double[A, B]"),
                     operators + " Gemm");
  };
  pooled("p = GlobalAveragePool(a) f = Flatten(p)", "GlobalAveragePool Flatten");
  pooled("p = AveragePool<kernel_shape = [6, 5]>(a) f = Flatten(p)", "AveragePool Flatten");
  pooled("f = ReduceMean<axes = [-1, 2], keepdims = 0>(a)", "ReduceMean");
  pooled("p = ReduceMean<axes = [2, 3]>(a) f = Squeeze(p, q)", "ReduceMean Squeeze", ", int64[2] q = {3, 2}");
}
TEST(FoldInputAffine, IntoConvolutionsBehindAPool) {  // squeeze and excitation beside it keeps the normalization
  const std::string weights = "double[2, 4, 1, 1] w = {}" + kNorm;
  expect_operators(kPass, net(kNormed + "p = GlobalAveragePool(a) y = Conv(p, w)", weights), "GlobalAveragePool Conv");
  expect_kept(kNormed + "p = GlobalAveragePool(a) c = Conv(p, w) d = Conv(c, u) y = Mul(a, d)",
              weights + ", double[4, 2, 1, 1] u = {}");
}
TEST(FoldInputAffine, KeepsWhereChannelsAreNotWhole) {
  const std::string weights = "double[4, 7] w = {}" + kNorm;
  const auto kept = [&](const std::string& nodes, const std::string& more,
                        const std::string& input = "double[2, 4, 6, 4]") {
    expect_unchanged(kPass, net(kNormed + nodes, weights + more, input, "double[A, B, C]"));
  };
  kept("r = Reshape(a, s) y = MatMul(r, w)", ", int64[3] s = {2, 24, 4}");  // the last axis is no channel
  kept("r = Reshape(a, s) t = Transpose<perm = [0, 2, 1]>(r) y = MatMul(t, w)", ", int64[3] s = {4, 4, 12}");
  kept("f = ReduceMean<axes = [1], keepdims = 0>(a) y = MatMul(f, w)", "");
  kept("f = ReduceMax<axes = [2], keepdims = 0>(a) t = Transpose<perm = [0, 2, 1]>(f) y = MatMul(t, w)", "");
  kept(
      "p = AveragePool<kernel_shape = [3, 4], pads = [1, 0, 1, 0], count_include_pad = 1>(a) q = Squeeze(p, s) "
      "t = Transpose<perm = [0, 2, 1]>(q) y = MatMul(t, w)",
      ", int64[1] s = {3}");
}
TEST(FoldInputAffine, KeepsWhereProductsWouldNeedBiases) {
  expect_unchanged(kPass, net(kTokens + "p = MatMul(t, w) q = MatMul(t, u) y = Add(p, q)",
                              "int64[3] s = {0, 4, 30}, double[4, 7] w = {}, double[4, 7] u = {}" + kNorm,
                              "double[N, 4, 6, 5]", "double[A, B, C]"));
  expect_unchanged(
      kPass, net(kTokens + "p = MatMul(t, w) q = Relu(t) o = MatMul(q, w) y = Add(p, o)",
                 "int64[3] s = {0, 4, 30}, double[4, 7] w = {}" + kNorm, "double[N, 4, 6, 5]", "double[A, B, C]"));
}

TEST(FoldInputAffine, KeepsTheHalfOfGelu) {  // the whole chain is one operator to a runtime
  const std::string constants =
      "double[4, 4, 1, 1] p = {}, double half = {0.5}, double one = {1}, double root = {1.4142135623730951}";
  expect_kept("d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) h = Mul(m, half) y = Conv(h, p)", constants);
  expect_operators(kPass,
                   net("d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) h = Mul(m, half) k = Mul(h, half) "
                       "y = Conv(k, p)",
                       constants),
                   "Div Erf Add Mul Mul Conv");
}

}  // namespace
}  // namespace onnxfold::test::fold_input_affine_test
