#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::merge_parallel_ffn_test {
namespace {

const std::string kPass = "merge-parallel-ffn";

// Layers "f" and "g" of width 4; hidden widths 6 and 10.
std::string net(const std::string& nodes, const std::string& more = "",
                const std::string& outputs = "double[B, S, 4] y") {
  return "<ir_version: 8, opset_import: [\"\" : 20, \"com.microsoft\" : 1]> n (double[B, S, 4] x) => (" + outputs +
         R"() <double[4, 6] fu = {}, double[6] fub = {}, double[6, 4] fd = {}, double[4] fdb = {}, double[4, 6] fg = {},
    double[4, 10] gu = {}, double[10] gub = {}, double[10, 4] gd = {}, double[4, 10] gg = {}, double[4] s1 = {},
    double[4] s2 = {}, double[4] b1 = {}, double[4] b2 = {}, double[4] l1 = {}, double[4] l2 = {}, double half = {0.5},
    double[4, 6] hu = {}, double[6, 4] hd = {})" +
         more + "> { " + nodes + " }";
}
std::string layer(const std::string& in, const std::string& out, const std::string& p,
                  const std::string& act = "Gelu") {
  return p + "1 = MatMul(" + in + ", " + p + "u) " + p + "2 = Add(" + p + "1, " + p + "ub) " + p + "3 = " + act + "(" +
         p + "2) " + out + " = MatMul(" + p + "3, " + p + "d) ";
}
std::string gated(const std::string& in, const std::string& out, const std::string& p) {
  return p + "1 = MatMul(" + in + ", " + p + "u) " + p + "2 = MatMul(" + in + ", " + p + "g) " + p + "3 = Sigmoid(" +
         p + "2) " + p + "4 = Mul(" + p + "2, " + p + "3) " + p + "5 = Mul(" + p + "4, " + p + "1) " + out +
         " = MatMul(" + p + "5, " + p + "d) ";
}
std::string norm(const std::string& in, const std::string& out, int which, const std::string& epsilon = "1e-5") {
  const std::string n = std::to_string(which);
  return out + " = LayerNormalization<epsilon = " + epsilon + ">(" + in + ", s" + n + ", b" + n + ") ";
}

TEST(MergeParallelFfn, OneInput) {
  expect_operators(kPass, net(layer("x", "a", "f") + layer("x", "b", "g") + "c = Add(x, a) y = Add(c, b)"),
                   "MatMul Add Gelu MatMul Add");
  expect_operators(kPass, net(layer("x", "a", "f") + layer("x", "b", "g") + "c = Add(b, a) y = Add(c, x)"),
                   "MatMul Add Gelu MatMul Add");
  expect_operators(kPass, net(layer("x", "a", "f") + layer("x", "b", "g") + "y = Add(b, a)"), "MatMul Add Gelu MatMul");
}
TEST(MergeParallelFfn, SumOfSeveral) {
  const std::string layers = layer("x", "a", "f") + layer("x", "b", "g");
  expect_operators(kPass, net(layers + "y = Sum(x, a, b)"), "MatMul Add Gelu MatMul Add");
  expect_operators(kPass, net(layers + "y = Sum(b, a)"), "MatMul Add Gelu MatMul");
  expect_operators(kPass, net(layers + "r = Neg(x) y = Sum(a, r, x, b)"), "MatMul Add Gelu MatMul Neg Sum");
  expect_operators(kPass, net(layers + "r = Neg(x) c = Add(x, a) y = Sum(c, r, b)"),
                   "MatMul Add Gelu MatMul Neg Add Add");
  expect_unchanged(kPass, net(layers + "y = Max(x, a, b)"));
  expect_unchanged(kPass, net(layer("x", "a", "f") + "y = Sum(x, a, a)"));
}
// ONNX Runtime's optimizer joins the last Add with the norm after it.
TEST(MergeParallelFfn, SumInsideANorm) {
  const std::string layers = layer("x", "a", "f") + layer("x", "b", "g");
  const std::string skip = " = com.microsoft.SkipLayerNormalization<epsilon = 1e-5>(";
  const std::string one = "MatMul Add Gelu MatMul SkipLayerNormalization";
  expect_operators(kPass, net(layers + "c = Add(x, a) y" + skip + "c, b, s1, b1)"), one);
  expect_operators(kPass, net(layers + "c = Add(a, b) y" + skip + "c, x, s1, b1, l1)"), one);
  expect_operators(kPass, net(layers + "c = Add(b, a) y" + skip + "x, c, s1, b1)"), one);
  expect_operators(kPass, net(layers + "c = Sum(b, x, a) d = Neg(x) y" + skip + "d, c, s1, b1)"),
                   "MatMul Add Gelu MatMul Add Neg SkipLayerNormalization");
  expect_operators(kPass, net(layers + "c = Sum(x, a) n, , , s" + skip + "c, b, s1, b1) y = Add(n, s)"), one + " Add");
  expect_operators(kPass, net(layers + "c = Add(x, a) y = com.microsoft.SkipSimplifiedLayerNormalization(c, b, s1)"),
                   "MatMul Add Gelu MatMul SkipSimplifiedLayerNormalization");
  expect_unchanged(kPass, net(layers + "y" + skip + "a, b, s1, b1)"));  // nothing would be left to add
  expect_unchanged(kPass, net(layers + "m" + skip + "x, a, s1, b1) y = Add(m, b)"));
}
TEST(MergeParallelFfn, NormsWithOtherGains) {
  const auto model = expect_operators(kPass,
                                      net(norm("x", "n", 1) + norm("x", "m", 2) + layer("n", "a", "f") +
                                          layer("m", "b", "g") + "c = Add(x, a) y = Add(c, b)"),
                                      "LayerNormalization MatMul Add Gelu MatMul Add");
  for (const Node* node : model->graph().nodes()) {
    if (!node->is("LayerNormalization")) continue;
    EXPECT_EQ(node->inputs().size(), 2U);
    const auto gains = to_doubles(*node->input(1)->constant());
    ASSERT_TRUE(gains.has_value());
    EXPECT_EQ(*gains, std::vector<double>(4, 1.0));
  }
}
TEST(MergeParallelFfn, OneNormKeepsItsGain) {
  const auto model = expect_operators(
      kPass, net(norm("x", "n", 1) + layer("n", "a", "f") + layer("n", "b", "g") + "c = Add(x, a) y = Add(c, b)"),
      "LayerNormalization MatMul Add Gelu MatMul Add");
  EXPECT_EQ(model->graph().nodes_of("LayerNormalization").front()->inputs().size(), 3U);
}
TEST(MergeParallelFfn, ANormThatOthersReadStays) {
  expect_operators(kPass,
                   net(norm("x", "n", 1) + norm("x", "m", 2) + layer("n", "a", "f") + layer("m", "b", "g") +
                       "c = Add(x, a) d = Add(c, b) y = Add(d, n)"),
                   "LayerNormalization LayerNormalization MatMul Add Gelu MatMul Add Add");
}
TEST(MergeParallelFfn, ChainsOfNorms) {
  const auto rms = [](const std::string& p, const std::string& gain) {
    return p + "q = Mul(x, x) " + p + "m = ReduceMean<keepdims = 1>(" + p + "q, axes) " + p + "e = Add(" + p +
           "m, eps) " + p + "r = Sqrt(" + p + "e) " + p + "v = Div(x, " + p + "r) " + p + "n = Mul(" + p + "v, " +
           gain + ") ";
  };
  expect_operators(kPass,
                   net(rms("f", "s1") + rms("g", "s2") + layer("fn", "a", "f") + layer("gn", "b", "g") +
                           "c = Add(x, a) y = Add(c, b)",
                       ", int64[1] axes = {-1}, double eps = {1e-6}"),
                   "Mul ReduceMean Add Sqrt Div MatMul Add Gelu MatMul Add");
}
TEST(MergeParallelFfn, LayerScaleAndThreeBranches) {
  expect_operators(kPass,
                   net(layer("x", "a", "f") + layer("x", "b", "g") +
                       "k1 = MatMul(x, hu) k2 = Gelu(k1) h = MatMul(k2, hd) "
                       "p = Mul(a, l1) q = Mul(l2, b) c = Add(x, p) d = Add(q, h) y = Add(c, d)"),
                   "MatMul Add Gelu MatMul Add");
}
TEST(MergeParallelFfn, GemmsAndBiases) {
  expect_operators(
      kPass,
      "<ir_version: 8, opset_import: [\"\" : 20]> n (double[B, 4] x) => (double[B, 4] y) <double[6, 4] u = {}, "
      "double[6] ub = {}, double[6, 4] d = {}, double[4] db = {}, double[4, 5] v = {}, double[5] vb = {}, "
      "double[4, 5] e = {}, double[4] eb = {}> { a1 = Gemm<transB = 1>(x, u, ub) a2 = Relu(a1) "
      "a = Gemm(a2, d, db) b1 = Gemm(x, v, vb) b2 = Relu(b1) b = Gemm<transB = 1, alpha = 0.5>(b2, e, eb) "
      "c = Add(x, a) y = Add(c, b) }",
      "Gemm Relu Gemm Add");
}
TEST(MergeParallelFfn, GatedLayers) {
  expect_operators(kPass, net(gated("x", "a", "f") + gated("x", "b", "g") + "c = Add(x, a) y = Add(c, b)"),
                   "MatMul MatMul Sigmoid Mul Mul MatMul Add");
}
TEST(MergeParallelFfn, GateAndUpInOneLinear) {
  const auto packed = [](const std::string& p) {
    return p + "1 = MatMul(x, " + p + "w) " + p + "g, " + p + "u = Split<axis = -1>(" + p + "1, " + p + "s) " + p +
           "a = Relu(" + p + "g) " + p + "h = Mul(" + p + "a, " + p + "u) " + p + "y = MatMul(" + p + "h, " + p + "d) ";
  };
  expect_operators(
      kPass,
      "<ir_version: 8, opset_import: [\"\" : 20]> n (double[B, 4] x) => (double[B, 4] y) <double[4, 12] fw = "
      "{}, int64[2] fs = {6, 6}, double[6, 4] fd = {}, double[4, 20] gw = {}, int64[2] gs = {10, 10}, "
      "double[10, 4] gd = {}> {" +
          packed("f") + packed("g") + "c = Add(x, fy) y = Add(c, gy) }",
      "MatMul Split Relu Mul MatMul Add");
}
TEST(MergeParallelFfn, JoinedBeforeTheNonlinearity) {
  const std::string two = ", double[4, 6] gu6 = {}, double[6, 4] gd6 = {}";
  expect_operators(kPass,
                   net("p = MatMul(x, fu) q = MatMul(x, gu6) z = Add(p, q) h = Gelu(z) a = MatMul(h, fd) "
                       "b = MatMul(h, gd6) c = Add(x, a) y = Add(c, b)",
                       two),
                   "MatMul Gelu MatMul Add");
  expect_operators(kPass,
                   net(norm("x", "n", 1) + norm("x", "m", 2) +
                           "p = MatMul(n, fu) q = MatMul(m, gu6) z = Add(p, q) w = Mul(z, half) h = Gelu(w) "
                           "a = MatMul(h, fd) y = Add(x, a)",
                       two),
                   "LayerNormalization MatMul Add Mul Gelu MatMul Add");
}

void expect_kept(const std::string& nodes, const std::string& more = "",
                 const std::string& outputs = "double[B, S, 4] y") {
  expect_unchanged(kPass, net(nodes, more, outputs));
}
TEST(MergeParallelFfn, KeepsOtherInputs) {
  expect_kept(layer("x", "a", "f") + "r = Relu(x) " + layer("r", "b", "g") + "c = Add(x, a) y = Add(c, b)");
  expect_kept(layer("x", "a", "f") + "c = Add(x, a) " + layer("c", "b", "g") + "y = Add(c, b)");
  expect_kept(norm("x", "n", 1) + layer("n", "a", "f") + layer("x", "b", "g") + "c = Add(x, a) y = Add(c, b)");
}
TEST(MergeParallelFfn, KeepsOtherStatistics) {
  expect_kept(norm("x", "n", 1) + norm("x", "m", 2, "1e-6") + layer("n", "a", "f") + layer("m", "b", "g") +
              "c = Add(x, a) y = Add(c, b)");
  expect_kept(norm("x", "n", 1) + "m = SimplifiedLayerNormalization<epsilon = 1e-5>(x, s2) " + layer("n", "a", "f") +
              layer("m", "b", "g") + "c = Add(x, a) y = Add(c, b)");
}
TEST(MergeParallelFfn, KeepsOtherActivations) {
  expect_kept(layer("x", "a", "f") + layer("x", "b", "g", "Relu") + "c = Add(x, a) y = Add(c, b)");
  expect_kept(layer("x", "a", "f", "Elu") + layer("x", "b", "g", "Elu<alpha = 0.5>") + "c = Add(x, a) y = Add(c, b)");
  expect_kept(layer("x", "a", "f") + gated("x", "b", "g") + "c = Add(x, a) y = Add(c, b)");
}
TEST(MergeParallelFfn, KeepsWhatOthersRead) {
  expect_kept(layer("x", "a", "f") + layer("x", "b", "g") + "c = Add(x, a) y = Add(c, b) z = Identity(b)", "",
              "double[B, S, 4] y, double[B, S, 4] z");
  expect_kept(layer("x", "a", "f") + layer("x", "b", "g") + "c = Add(x, a) y = Add(c, b) z = Identity(g3)", "",
              "double[B, S, 4] y, double[B, S, 10] z");
  expect_kept(layer("x", "a", "f") + layer("x", "b", "g") +
                  "c = Add(x, a) d = Relu(c) e = Add(c, b) y = Add(d, e) "
                  "z = Relu(e)",
              "", "double[B, S, 4] y, double[B, S, 4] z");
}
TEST(MergeParallelFfn, KeepsOneLayer) {
  expect_kept(layer("x", "a", "f") + "y = Add(x, a)");
  expect_kept(layer("x", "a", "f") + layer("x", "b", "g") + "c = Sub(x, a) y = Add(c, b)");
}

}  // namespace
}  // namespace onnxfold::test::merge_parallel_ffn_test
