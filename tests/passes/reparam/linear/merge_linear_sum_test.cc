#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::merge_linear_sum_test {
namespace {

const std::string kPass = "merge-linear-sum";

std::string net(const std::string& nodes, const std::string& initializers,
                const std::string& inputs = "double[B, S, 5] x", const std::string& output = "double[D, E, F] y") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (" + inputs + ") => (" + output + ") <" + initializers + "> { " +
         nodes + " }";
}
void expect_merged(const std::string& nodes, const std::string& initializers, const std::string& operators,
                   const std::string& inputs = "double[B, S, 5] x", const std::string& output = "double[D, E, F] y") {
  expect_operators(kPass, net(nodes, initializers, inputs, output), operators);
}
void expect_kept(const std::string& nodes, const std::string& initializers,
                 const std::string& inputs = "double[B, S, 5] x", const std::string& output = "double[D, E, F] y") {
  expect_unchanged(kPass, net(nodes, initializers, inputs, output));
}
const std::string kTwo = "double[5, 3] v = {}, double[5, 3] w = {}";
const std::string kSquare = "double[5, 5] v = {}, double[5, 5] w = {}, double[5] b = {}, double[5] c = {}";

TEST(MergeLinearSum, NumbersOfASmallOne) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, S, 2] x) => (float[A, B, C] y)
      <float[2, 2] v = {1, 2, 3, 4}, float[2, 2] w = {10, 20, 30, 40}, float[2] b = {5, 7}> {
      p = MatMul(x, v) q = MatMul(x, w) r = Add(q, b) y = Sub(r, p) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, S, 2] x) => (float[A, B, C] y)
      <float[2, 2] w = {9, 18, 27, 36}, float[2] b = {5, 7}> { q = MatMul(x, w) y = Add(q, b) })");
}
TEST(MergeLinearSum, BrainFloats) {  // by their bits: {1, 2, 3, 4} + {1, 1, 1, 1}
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (bfloat16[N, 2] x) => (bfloat16[A, B] y)
      <bfloat16[2, 2] v = {16256, 16384, 16448, 16512}, bfloat16[2, 2] w = {16256, 16256, 16256, 16256}> {
      p = MatMul(x, v) q = MatMul(x, w) y = Add(p, q) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (bfloat16[N, 2] x) => (bfloat16[A, B] y)
      <bfloat16[2, 2] v = {16384, 16448, 16512, 16544}> { y = MatMul(x, v) })");
}
TEST(MergeLinearSum, OppositesBecomeZero) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[A, B] y)
      <float[2, 1] v = {1.5, 2}, float[2, 1] w = {-1.5, -2}> { p = MatMul(x, v) q = MatMul(x, w) y = Add(p, q) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[A, B] y)
      <float[2, 1] v = {0, 0}> { y = MatMul(x, v) })");
}
TEST(MergeLinearSum, ThreeWithBiasesOfTwoSpellings) {
  expect_merged(
      "p = MatMul(x, v) q = MatMul(x, w) t = Transpose(u) r = MatMul(x, t) pb = Add(b, p) qb = Add(q, b) "
      "s = Add(pb, qb) y = Add(r, s)",
      kTwo + ", double[3, 5] u = {}, double[3] b = {}", "MatMul Add");
  expect_merged("p = Gemm<transB = 1>(x, u, b) q = Gemm<alpha = 0.5, beta = -2.0>(x, w, b) y = Sum(p, q)",
                kTwo + ", double[3, 5] u = {}, double[3] b = {}", "Gemm", "double[N, 5] x", "double[D, E] y");
}
TEST(MergeLinearSum, IdentityIsTakenIn) {
  expect_merged("p = MatMul(x, w) q = Add(p, b) y = Add(x, q)", kSquare, "MatMul Add");
  expect_merged("p = MatMul(x, w) y = Sub(p, x)", kSquare, "MatMul");
  expect_merged("p = MatMul(x, w) i = Mul(x, b) y = Add(i, p)", kSquare, "MatMul");
}
TEST(MergeLinearSum, FactorsAndAddendsInBranches) {
  expect_merged(
      "p = MatMul(x, v) q = MatMul(x, w) a = Mul(p, b) d = Div(q, two) e = Neg(d) f = Add(e, c) y = Add(a, f)",
      kSquare + ", double two = {2}", "MatMul Add");
  expect_merged("h = Mul(x, c) p = MatMul(h, v) q = MatMul(x, w) d = Sub(b, q) y = Add(p, d)", kSquare, "MatMul Add");
}
TEST(MergeLinearSum, OtherSummandsAreAdded) {
  expect_merged("p = MatMul(x, v) s = Add(p, z) q = MatMul(x, w) y = Sub(q, s)", kSquare, "MatMul Sub",
                "double[B, S, 5] x, double[B, S, 5] z");
  expect_merged(
      "p = MatMul(x, v) q = MatMul(z, w) r = MatMul(x, w) t = MatMul(z, v) s = Add(p, q) u = Add(r, t) "
      "y = Add(s, u)",
      kSquare, "MatMul MatMul Add", "double[B, S, 5] x, double[B, S, 5] z");
}
TEST(MergeLinearSum, WithABroadcastSummand) {
  expect_merged("p = MatMul(x, v) s = Add(p, z) q = MatMul(x, w) y = Add(q, s)", kSquare, "MatMul Add",
                "double[B, S, 5] x, double[1, 5] z");
}
TEST(MergeLinearSum, OnAnIntermediateOfOneRow) {
  expect_merged("p = MatMul(x, v) q = MatMul(x, w) y = Add(p, q)", "double[1, 1] v = {}, double[1, 1] w = {}", "MatMul",
                "double[B, 1] x", "double[D, E] y");
}

TEST(MergeLinearSum, KeepsDifferentInputs) {
  expect_kept("p = MatMul(x, v) q = MatMul(z, w) y = Add(p, q)", kTwo, "double[B, S, 5] x, double[B, S, 5] z");
}
TEST(MergeLinearSum, KeepsResultsReadElsewhere) {
  expect_kept("p = MatMul(x, v) q = MatMul(x, w) s = Add(p, q) y = Mul(s, p)", kTwo);
  expect_kept("p = MatMul(x, v) q = MatMul(x, w) y = Add(p, q)", kTwo, "double[B, S, 5] x",
              "double[D, E, F] y, double[G, H, I] p");
}
TEST(MergeLinearSum, KeepsCapturedResults) {
  expect_kept(
      "p = MatMul(x, v) q = MatMul(x, w) s = Add(p, q) d = If(k) <then_branch = t () => (double[D, E, F] e) { e "
      "= Relu(p) }, else_branch = f () => (double[D, E, F] h) { h = Neg(p) }> y = Mul(s, d)",
      kTwo, "double[B, S, 5] x, bool k");
}
TEST(MergeLinearSum, KeepsWidthsThatBroadcast) {
  expect_kept("p = MatMul(x, v) q = MatMul(x, w) y = Add(p, q)", "double[5, 3] v = {}, double[5, 1] w = {}");
  expect_kept("p = MatMul(x, w) y = Add(x, p)", "double[1, 4] w = {}", "double[B, S, 1] x");
}
TEST(MergeLinearSum, KeepsAnActivationBetween) {
  expect_kept("p = MatMul(x, v) r = Relu(p) q = MatMul(x, w) y = Add(r, q)", kTwo);
}
TEST(MergeLinearSum, KeepsVariableWeights) {
  expect_kept("p = MatMul(x, v) q = MatMul(x, w) y = Add(p, q)", "double[5, 3] v = {}",
              "double[B, S, 5] x, double[5, 3] w");
}
TEST(MergeLinearSum, KeepsFactorsAlongOtherAxes) {
  expect_kept("p = MatMul(x, v) a = Mul(p, b) q = MatMul(x, w) y = Add(a, q)", kTwo + ", double[4, 1] b = {}",
              "double[B, 4, 5] x");
  expect_kept("p = MatMul(x, v) a = Mul(p, z) q = MatMul(x, w) y = Add(a, q)", kTwo, "double[B, S, 5] x, double[3] z");
}
TEST(MergeLinearSum, KeepsSharedLargeWeights) {
  const std::string text = net("p = MatMul(x, v) q = MatMul(x, w) s = Add(p, q) r = MatMul(z, w) y = Mul(s, r)", kTwo,
                               "double[B, S, 5] x, double[B, S, 5] z");
  expect_unchanged(kPass, text, {{"max-growth", "119"}});
  expect_operators(kPass, text, "MatMul MatMul Mul", {{"max-growth", "120"}});
}
TEST(MergeLinearSum, KeepsAdaptersToTheirOwnPass) {
  expect_kept("p = MatMul(x, w) a = MatMul(x, u) b2 = MatMul(a, v) y = Add(p, b2)",
              "double[5, 5] w = {}, double[5, 2] u = {}, double[2, 5] v = {}");
}
TEST(MergeLinearSum, KeepsPlainSums) { expect_kept("a = Mul(x, b) y = Add(x, a)", kSquare); }

}  // namespace
}  // namespace onnxfold::test::merge_linear_sum_test
