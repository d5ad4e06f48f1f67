#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::fold_lora_test {
namespace {

const std::string kPass = "fold-lora";

std::string net(const std::string& nodes, const std::string& initializers,
                const std::string& inputs = "double[B, S, 5] x", const std::string& output = "double[D, E, F] y") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (" + inputs + ") => (" + output + ") <" + initializers + "> { " +
         nodes + " }";
}
void expect_folded(const std::string& nodes, const std::string& initializers, const std::string& operators,
                   const std::string& inputs = "double[B, S, 5] x", const std::string& output = "double[D, E, F] y") {
  expect_operators(kPass, net(nodes, initializers, inputs, output), operators);
}
void expect_kept(const std::string& nodes, const std::string& initializers,
                 const std::string& inputs = "double[B, S, 5] x", const std::string& output = "double[D, E, F] y") {
  expect_unchanged(kPass, net(nodes, initializers, inputs, output));
}
const std::string kBase = "double[5, 7] w = {}, double[7] bias = {}, double s = {0.25}";
const std::string kAdapter = ", double[5, 2] a = {}, double[2, 7] b = {}";

TEST(FoldLora, NumbersOfASmallOne) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, S, 2] x) => (float[A, B, C] y)
      <float[2, 2] w = {1, 2, 3, 4}, float[2, 1] a = {1, 2}, float[1, 2] b = {10, 20}, float s = {0.5}> {
      p = MatMul(x, w) q = MatMul(x, a) r = MatMul(q, b) t = Mul(r, s) y = Add(p, t) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, S, 2] x) => (float[A, B, C] y)
      <float[2, 2] w = {6, 12, 13, 24}> { y = MatMul(x, w) })");
}
TEST(FoldLora, AsPeftExportsIt) {
  expect_folded("p = MatMul(x, w) base = Add(bias, p) q = MatMul(x, a) r = MatMul(q, b) t = Mul(r, s) y = Add(base, t)",
                kBase + kAdapter, "MatMul Add");
  expect_folded(
      "p = MatMul(x, w) base = Add(bias, p) d = Dropout(x) q = MatMul(d, a) r = MatMul(q, b) t = Mul(r, s) "
      "y = Add(base, t)",
      kBase + kAdapter, "MatMul Add");
  expect_folded(
      "p = MatMul(x, w) at = Transpose(u) q = MatMul(x, at) bt = Transpose<perm = [1, 0]>(v) "
      "r = MatMul(q, bt) t = Mul(s, r) y = Add(p, t)",
      kBase + ", double[2, 5] u = {}, double[7, 2] v = {}", "MatMul");
}
TEST(FoldLora, BaseAsGemm) {
  expect_folded(
      "p = Gemm<transB = 1>(x, u, bias) q = Gemm<transB = 1>(x, c) r = Gemm(q, b) t = Mul(r, s) y = Add(p, t)",
      kBase + kAdapter + ", double[7, 5] u = {}, double[2, 5] c = {}", "Gemm", "double[N, 5] x", "double[D, E] y");
}
TEST(FoldLora, SeveralAdapters) {
  expect_folded(
      "p = MatMul(x, w) base = Add(p, bias) q = MatMul(x, a) r = MatMul(q, b) t = Mul(r, s) y1 = Add(base, t) "
      "q2 = MatMul(x, c) r2 = MatMul(q2, d) t2 = Mul(r2, s) y = Add(y1, t2)",
      kBase + kAdapter + ", double[5, 3] c = {}, double[3, 7] d = {}", "MatMul Add");
}
TEST(FoldLora, FactorsAnywhereAndBiases) {
  expect_folded(
      "p = MatMul(x, w) h = Mul(x, s) q = MatMul(h, a) qb = Add(q, k) m = Mul(qb, v) r = MatMul(m, b) "
      "rb = Add(r, bias) t = Mul(rb, bias) y = Add(t, p)",
      kBase + kAdapter + ", double[2] v = {}, double[2] k = {}", "MatMul Add");
}
TEST(FoldLora, BeforeTheBiasIsAdded) {
  expect_folded("p = MatMul(x, w) q = MatMul(x, a) r = MatMul(q, b) t = Add(p, r) y = Add(t, bias)", kBase + kAdapter,
                "MatMul Add");
}
TEST(FoldLora, BesideAResidual) {
  expect_folded("p = MatMul(x, w) q = MatMul(x, a) r = MatMul(q, b) t = Add(p, r) y = Add(z, t)", kBase + kAdapter,
                "MatMul Add", "double[B, S, 5] x, double[B, S, 7] z");
}
TEST(FoldLora, Subtracted) {
  expect_folded("p = MatMul(x, w) q = MatMul(x, a) r = MatMul(q, b) y = Sub(p, r)", kBase + kAdapter, "MatMul");
}

TEST(FoldLora, KeepsOtherInput) {
  expect_kept("p = MatMul(x, w) q = MatMul(z, a) r = MatMul(q, b) y = Add(p, r)", kBase + kAdapter,
              "double[B, S, 5] x, double[B, S, 5] z");
}
TEST(FoldLora, KeepsInnerValueReadElsewhere) {
  expect_kept("p = MatMul(x, w) q = MatMul(x, a) r = MatMul(q, b) t = Add(p, r) u = MatMul(q, b) y = Mul(t, u)",
              kBase + kAdapter);
  expect_kept("p = MatMul(x, w) q = MatMul(x, a) r = MatMul(q, b) y = Add(p, r)", kBase + kAdapter, "double[B, S, 5] x",
              "double[D, E, F] y, double[G, H, I] q");
}
TEST(FoldLora, KeepsBaseReadElsewhere) {
  expect_kept("p = MatMul(x, w) q = MatMul(x, a) r = MatMul(q, b) t = Add(p, r) y = Mul(p, t)", kBase + kAdapter);
}
TEST(FoldLora, KeepsANonlinearAdapter) {
  expect_kept("p = MatMul(x, w) q = MatMul(x, a) n = Relu(q) r = MatMul(n, b) y = Add(p, r)", kBase + kAdapter);
}
TEST(FoldLora, KeepsVariableAdapters) {
  expect_kept("p = MatMul(x, w) q = MatMul(x, a) r = MatMul(q, b) y = Add(p, r)", kBase + ", double[5, 2] a = {}",
              "double[B, S, 5] x, double[2, 7] b");
  expect_kept("p = MatMul(x, w) q = MatMul(x, a) r = MatMul(q, b) t = Mul(r, k) y = Add(p, t)", kBase + kAdapter,
              "double[B, S, 5] x, double k");
}
TEST(FoldLora, KeepsDropoutInTraining) {
  expect_kept("p = MatMul(x, w) d = Dropout(x, s, on) q = MatMul(d, a) r = MatMul(q, b) y = Add(p, r)",
              kBase + kAdapter + ", bool on = {1}");
}
TEST(FoldLora, KeepsAdaptersWithoutBase) {
  expect_kept("p = MatMul(x, a) u = MatMul(p, b) q = MatMul(x, c) r = MatMul(q, d) y = Add(u, r)",
              kBase + kAdapter + ", double[5, 2] c = {}, double[2, 7] d = {}");
}
TEST(FoldLora, KeepsOneLinearToItsOwnPass) {
  expect_kept("p = MatMul(x, w) q = MatMul(x, c) y = Add(p, q)", kBase + ", double[5, 7] c = {}");
}
TEST(FoldLora, KeepsQuantizedBase) {
  expect_unchanged(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[A, B] y)
      <int8[2, 2] i = {1, 2, 3, 4}, float s = {0.5}, float[2, 1] a = {1, 2}, float[1, 2] b = {1, 2}> {
      w = DequantizeLinear(i, s) p = MatMul(x, w) q = MatMul(x, a) r = MatMul(q, b) y = Add(p, r) })");
}

}  // namespace
}  // namespace onnxfold::test::fold_lora_test
