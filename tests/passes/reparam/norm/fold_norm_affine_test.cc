#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::fold_norm_affine_test {
namespace {

const std::string kPass = "fold-norm-affine";
const OptionMap kChains{{"chains", "true"}};

std::string net(const std::string& nodes, const std::string& initializers,
                const std::string& inputs = "double[B, S, 6] x", const std::string& output = "double[A, B1, C] y",
                int opset = 17) {
  return "<ir_version: 8, opset_import: [\"\": " + std::to_string(opset) + ", \"com.microsoft\": 1]> g (" + inputs +
         ") => (" + output + ") <" + initializers + "> { " + nodes + " }";
}
const std::string kAffine = "double[6] g = {}, double[6] c = {}";
void expect_kept(const std::string& nodes, const std::string& initializers,
                 const std::string& inputs = "double[B, S, 6] x", const OptionMap& options = {}) {
  expect_unchanged(kPass, net(nodes, initializers, inputs), options);
}

TEST(FoldNormAffine, NumbersOfASmallOne) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[A, B] y)
      <float[2] g = {2, 4}, float[2] c = {10, 100}, float[2, 2] w = {1, 2, 3, 5}, float[2] b = {0.5, 1}> {
      n = LayerNormalization(x, g, c) p = MatMul(n, w) y = Add(p, b) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[A, B] y)
      <float[2] g = {1, 1}, float[2, 2] w = {2, 4, 12, 20}, float[2] b = {310.5, 521}> {
      n = LayerNormalization(x, g) p = MatMul(n, w) y = Add(p, b) })");
}
TEST(FoldNormAffine, AllReadersOfOneNorm) {
  expect_operators(kPass,
                   net("n = LayerNormalization(x, g, c) a = MatMul(n, w) q = Add(a, b) e = MatMul(n, v) k = Add(b, e) "
                       "y = Mul(q, k)",
                       kAffine + ", double[6, 5] w = {}, double[6, 5] v = {}, double[5] b = {}"),
                   "LayerNormalization MatMul Add MatMul Add Mul");
}
TEST(FoldNormAffine, GainOnlyNeedsNoBias) {
  expect_operators(kPass, net("n = LayerNormalization(x, g) y = MatMul(n, w)", "double[6] g = {}, double[6, 3] w = {}"),
                   "LayerNormalization MatMul");
  expect_operators(
      kPass,
      net("n = com.microsoft.SimplifiedLayerNormalization<axis = -1>(x, g) t = Transpose(w) y = MatMul(n, t)",
          "double[6] g = {}, double[3, 6] w = {}"),
      "SimplifiedLayerNormalization MatMul");
}
TEST(FoldNormAffine, RmsNormalization) {
  expect_operators(
      kPass,
      net("n = RMSNormalization<axis = 2>(x, g) a = MatMul(n, w) e = MatMul(n, v) y = Mul(a, e)",
          "double[6] g = {}, double[6, 7] w = {}, double[6, 7] v = {}", "double[B, S, 6] x", "double[A, B1, C] y", 23),
      "RMSNormalization MatMul MatMul Mul");
}
TEST(FoldNormAffine, GemmWithAlphaBetaAndTurnedWeight) {
  expect_operators(kPass,
                   net("n = LayerNormalization(x, g, c) y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(n, w, b)",
                       kAffine + ", double[3, 6] w = {}, double[1, 3] b = {}", "double[N, 6] x", "double[A, B] y"),
                   "LayerNormalization Gemm");
  expect_operators(kPass,
                   net("n = LayerNormalization(x, g, c) y = Gemm(n, w)", kAffine + ", double[6, 3] w = {}",
                       "double[N, 6] x", "double[A, B] y"),
                   "LayerNormalization Gemm");
}
TEST(FoldNormAffine, BehindWhatKeepsTheLastAxis) {
  const std::string rest = kAffine + ", double[6, 3] w = {}, double[3] b = {}, int64[2] s = {-1, 6}, int64 i = {0}";
  expect_operators(kPass,
                   net("n = LayerNormalization(x, g, c) r = Reshape(n, s) y = Gemm(r, w, b)", rest, "double[2, 3, 6] x",
                       "double[A, B] y"),
                   "LayerNormalization Reshape Gemm");
  expect_operators(
      kPass,
      net("n = LayerNormalization(x, g, c) t = Transpose<perm = [1, 0, 2]>(n) p = MatMul(t, w) y = Add(p, b)", rest),
      "LayerNormalization Transpose MatMul Add");
  expect_operators(kPass,
                   net("n = LayerNormalization(x, g, c) t = Gather<axis = 1>(n, i) y = Gemm(t, w, b)", rest,
                       "double[2, 3, 6] x", "double[A, B] y"),
                   "LayerNormalization Gather Gemm");
  expect_operators(kPass,
                   net("n = LayerNormalization(x, g, c) t = ReduceMean<axes = [1], keepdims = 0>(n) y = Gemm(t, w, b)",
                       rest, "double[2, 3, 6] x", "double[A, B] y"),
                   "LayerNormalization ReduceMean Gemm");
}
TEST(FoldNormAffine, SkipAndItsSum) {
  expect_operators(kPass,
                   net("n, , , s = com.microsoft.SkipLayerNormalization(x, z, g, c, d) p = MatMul(n, w) q = Add(p, b) "
                       "y = Add(q, s)",
                       kAffine + ", double[6] d = {}, double[6, 6] w = {}, double[6] b = {}",
                       "double[B, S, 6] x, double[B, S, 6] z"),
                   "SkipLayerNormalization MatMul Add Add");
}
TEST(FoldNormAffine, PackedProjectionOfAttention) {
  expect_operators(kPass,
                   net("n = LayerNormalization(x, g, c) y = com.microsoft.Attention<num_heads = 2>(n, w, b)",
                       kAffine + ", double[6, 18] w = {}, double[18] b = {}"),
                   "LayerNormalization Attention");
}
TEST(FoldNormAffine, ChainLosesItsMulAndAdd) {
  const std::string chain =
      "m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) s = Pow(d, two) v = ReduceMean<axes = [-1]>(s) e = Add(v, eps) "
      "r = Sqrt(e) o = Div(d, r) h = Mul(g, o) n = Add(h, c) ";
  const std::string rest = kAffine + ", double two = {2}, double eps = {0.00001}, double[6, 5] w = {}";
  expect_operators(kPass, net(chain + "y = MatMul(n, w)", rest),
                   "ReduceMean Sub Pow ReduceMean Add Sqrt Div MatMul Add", kChains);
  expect_kept(chain + "y = MatMul(n, w)", rest);  // by default runtimes keep their pattern
  expect_kept(chain + "p = MatMul(n, w) q = MatMul(n, w) r2 = MatMul(n, w) u = Add(p, q) y = Add(u, r2)", rest,
              "double[B, S, 6] x", kChains);  // three biases for two nodes
}
TEST(FoldNormAffine, ExtraNodesWhereAllowed) {
  const std::string text = net("n = LayerNormalization(x, g, c) y = MatMul(n, w)", kAffine + ", double[6, 5] w = {}");
  expect_unchanged(kPass, text);
  expect_operators(kPass, text, "LayerNormalization MatMul Add", {{"max-extra-nodes", "1"}});
}
TEST(FoldNormAffine, SharedWeightIsCopiedWhereAllowed) {
  const std::string text = net("n = LayerNormalization(x, g) a = MatMul(n, w) e = MatMul(z, w) y = Add(a, e)",
                               "double[6] g = {}, double[6, 5] w = {}", "double[B, S, 6] x, double[B, S, 6] z");
  expect_operators(kPass, text, "LayerNormalization MatMul MatMul Add");
  expect_unchanged(kPass, text, {{"max-growth", "239"}});
}
TEST(FoldNormAffine, HalfPrecision) {  // ONNX text states float16 by its bits
  const auto text = [](const std::string& gain, const std::string& weight) {
    return R"(<ir_version: 8, opset_import: ["": 17]> g (float16[N, 2] x) => (float16[A, B] y) <float16[2] g = )" +
           gain + ", float16[2, 2] w = " + weight + "> { n = LayerNormalization(x, g) y = MatMul(n, w) }";
  };
  expect_rewrite(kPass, text("{16384, 17408}", "{15360, 16384, 16896, 17664}"),     // {2, 4}, {1, 2, 3, 5}
                 text("{15360, 15360}", "{16384, 17408, 18944, 19712}"));           // {1, 1}, {2, 4, 12, 20}
  expect_unchanged(kPass, text("{16384, 17408}", "{15360, 16384, 16896, 31571}"));  // 4 * 60000 is no float16
}

TEST(FoldNormAffine, BrainFloats) {  // by their bits: the upper half of a float32
  const auto text = [](const std::string& gain, const std::string& weight) {
    return R"(<ir_version: 8, opset_import: ["": 17]> g (bfloat16[N, 2] x) => (bfloat16[A, B] y) <bfloat16[2] g = )" +
           gain + ", bfloat16[2, 2] w = " + weight + "> { n = LayerNormalization(x, g) y = MatMul(n, w) }";
  };
  expect_rewrite(kPass, text("{16384, 16512}", "{16256, 16384, 16448, 16544}"),  // {2, 4}, {1, 2, 3, 5}
                 text("{16256, 16256}", "{16384, 16512, 16704, 16800}"));        // {1, 1}, {2, 4, 12, 20}
}

TEST(FoldNormAffine, KeepsWhatTheResidualReads) {
  expect_kept("n = LayerNormalization(x, g, c) p = MatMul(n, w) q = Add(p, b) y = Add(n, q)",
              kAffine + ", double[6, 6] w = {}, double[6] b = {}");
  expect_kept("n = LayerNormalization(x, g, c) r = Relu(n) p = MatMul(n, w) q = Add(p, b) y = Add(r, q)",
              kAffine + ", double[6, 6] w = {}, double[6] b = {}");
}
TEST(FoldNormAffine, KeepsOutputsAndCaptures) {
  expect_unchanged(kPass, net("n = LayerNormalization(x, g) y = MatMul(n, w)", "double[6] g = {}, double[6, 6] w = {}",
                              "double[B, S, 6] x", "double[A, B1, C] y, double[D, E, F] n"));
  expect_unchanged(kPass, net("n = LayerNormalization(x, g) a = MatMul(n, w) d = If(k) <then_branch = t () => "
                              "(double[A, B1, C] e) { e = Relu(n) }, else_branch = f () => (double[A, B1, C] h) { h = "
                              "Neg(n) }> y = Mul(a, d)",
                              "double[6] g = {}, double[6, 6] w = {}", "double[B, S, 6] x, bool k"));
}
TEST(FoldNormAffine, KeepsReadersThatAreNoLinears) {
  const std::string gain = "double[6] g = {}";
  expect_kept("n = LayerNormalization(x, g) y = Relu(n)", gain);
}
TEST(FoldNormAffine, KeepsWhereTheLastAxisMoves) {
  const std::string rest = "double[6] g = {}, double[6, 6] w = {}, int64[3] s = {-1, 3, 6}, int64 i = {0}";
  expect_kept("n = LayerNormalization(x, g) t = Transpose<perm = [0, 2, 1]>(n) y = MatMul(t, w)", rest,
              "double[B, 6, 6] x");
  expect_kept("n = LayerNormalization(x, g) t = Transpose<perm = [0, 2, 1]>(n) r = Reshape(t, s) y = MatMul(r, w)",
              rest, "double[2, 3, 6] x");
  expect_kept("n = LayerNormalization(x, g) t = Softmax(n) y = MatMul(t, w)", rest);
  expect_kept("n = LayerNormalization(x, g) t = ReduceMean<axes = [-1]>(n) u = Mul(t, x) y = MatMul(u, w)", rest);
}
TEST(FoldNormAffine, KeepsVariableGainAndWeight) {
  expect_kept("n = LayerNormalization(x, k) y = MatMul(n, w)", "double[6, 5] w = {}", "double[B, S, 6] x, double[6] k");
  expect_kept("n = LayerNormalization(x, g) y = MatMul(n, k)", "double[6] g = {}", "double[B, S, 6] x, double[6, 5] k");
}
TEST(FoldNormAffine, KeepsTheWeightOperand) {
  expect_kept("n = LayerNormalization(x, g) y = MatMul(w, n)", "double[6] g = {}, double[6, 6] w = {}",
              "double[2, 6, 6] x");
}
TEST(FoldNormAffine, KeepsNormsOfOtherAxes) {
  expect_kept("n = LayerNormalization<axis = 1>(x, g) y = MatMul(n, w)", "double[3, 6] g = {}, double[6, 6] w = {}",
              "double[B, 3, 6] x");
}
TEST(FoldNormAffine, KeepsWhatIsNeutral) {
  expect_kept("n = LayerNormalization(x, g, c) p = MatMul(n, w) y = Add(p, c)",
              "double[6] g = {1, 1, 1, 1, 1, 1}, double[6] c = {0, 0, 0, 0, 0, 0}, double[6, 6] w = {}");
}
TEST(FoldNormAffine, KeepsQuantizedWeights) {
  expect_unchanged(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[A, B] y)
      <float[2] g = {2, 4}, int8[2, 2] q = {1, 2, 3, 4}, float s = {0.5}> {
      n = LayerNormalization(x, g) w = DequantizeLinear(q, s) y = MatMul(n, w) })");
}

}  // namespace
}  // namespace onnxfold::test::fold_norm_affine_test
