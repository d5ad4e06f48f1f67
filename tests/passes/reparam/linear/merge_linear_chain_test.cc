#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::merge_linear_chain_test {
namespace {

const std::string kPass = "merge-linear-chain";

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
const std::string kTwo = "double[5, 9] v = {}, double[9, 3] w = {}, double[9] b = {}, double[3] c = {}";

TEST(MergeLinearChain, NumbersOfASmallOne) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, S, 1] x) => (float[A, B, C] y)
      <float[1, 2] v = {1, 2}, float[2] b = {3, 4}, float[2, 1] w = {10, 20}, float[1] c = {0.5}> {
      p = MatMul(x, v) q = Add(p, b) r = MatMul(q, w) y = Add(r, c) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, S, 1] x) => (float[A, B, C] y)
      <float[1, 1] w = {50}, float[1] c = {110.5}> { p = MatMul(x, w) y = Add(p, c) })");
}
TEST(MergeLinearChain, BrainFloats) {  // {1, 2} times {3, 4} rows, by their bits
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (bfloat16[N, 1] x) => (bfloat16[A, B] y)
      <bfloat16[1, 2] v = {16256, 16384}, bfloat16[2, 1] w = {16448, 16512}> { p = MatMul(x, v) y = MatMul(p, w) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (bfloat16[N, 1] x) => (bfloat16[A, B] y)
      <bfloat16[1, 1] w = {16688}> { y = MatMul(x, w) })");
}
TEST(MergeLinearChain, WithAndWithoutBiases) {
  expect_merged("p = MatMul(x, v) y = MatMul(p, w)", kTwo, "MatMul");
  expect_merged("p = MatMul(x, v) q = Add(b, p) y = MatMul(q, w)", kTwo, "MatMul Add");
  expect_merged("p = MatMul(x, v) r = MatMul(p, w) y = Add(r, c)", kTwo, "MatMul Add");
}
TEST(MergeLinearChain, Gemms) {
  expect_merged("p = Gemm<alpha = 2.0, beta = 0.5>(x, v, b) y = Gemm<transB = 1, alpha = 0.5>(p, u, c)",
                kTwo + ", double[3, 9] u = {}", "Gemm", "double[N, 5] x", "double[D, E] y");
  expect_merged("p = Gemm(x, v, b) y = MatMul(p, w)", kTwo, "MatMul Add", "double[N, 5] x", "double[D, E] y");
}
TEST(MergeLinearChain, FactorsAndAddendsBetween) {
  expect_merged("p = MatMul(x, v) q = Mul(p, b) r = Sub(q, b) s = Neg(r) t = Div(s, two) y = MatMul(t, w)",
                kTwo + ", double two = {2}", "MatMul Add");
  expect_merged("p = MatMul(x, v) q = Identity(p) r = Dropout(q) y = MatMul(r, w)", kTwo, "MatMul");
}
TEST(MergeLinearChain, TheBestStretchOfFour) {
  expect_merged("p = MatMul(x, v) q = MatMul(p, w) r = MatMul(q, u) y = MatMul(r, t)",
                "double[5, 9] v = {}, double[9, 5] w = {}, double[5, 9] u = {}, double[9, 5] t = {}", "MatMul");
  // The first two: 2 * 9 + 9 * 2 becomes 2 * 2; all three would be 2 * 50.
  expect_merged("p = MatMul(x, v) q = MatMul(p, w) y = MatMul(q, u)",
                "double[50, 9] v = {}, double[9, 2] w = {}, double[2, 50] u = {}", "MatMul MatMul",
                "double[B, S, 50] x");
}
TEST(MergeLinearChain, TheLastMayBeReadManyTimes) {
  expect_merged("p = MatMul(x, v) q = MatMul(p, w) r = Relu(q) y = Mul(q, r)", kTwo, "MatMul Relu Mul");
}

TEST(MergeLinearChain, KeepsLowRankFactors) {
  expect_kept("p = MatMul(x, v) y = MatMul(p, w)", "double[5, 2] v = {}, double[2, 5] w = {}");
  expect_kept("p = MatMul(x, v) y = MatMul(p, w)", "double[4, 2] v = {}, double[2, 4] w = {}", "double[B, S, 4] x");
}
TEST(MergeLinearChain, KeepsInnerValuesReadElsewhere) {
  expect_kept("p = MatMul(x, v) q = MatMul(p, w) r = MatMul(p, w) y = Mul(q, r)", kTwo);
  expect_kept("p = MatMul(x, v) y = MatMul(p, w)", kTwo, "double[B, S, 5] x", "double[D, E, F] y, double[G, H, I] p");
}
TEST(MergeLinearChain, KeepsCapturedInnerValues) {
  expect_kept(
      "p = MatMul(x, v) q = MatMul(p, w) d = If(k) <then_branch = t () => (double[D, E, G] e) { e = Relu(p) }, "
      "else_branch = f () => (double[D, E, G] h) { h = Neg(p) }> r = ReduceMean<axes = [2]>(d) y = Mul(q, r)",
      kTwo, "double[B, S, 5] x, bool k");
}
TEST(MergeLinearChain, KeepsActivationsAndMoves) {
  expect_kept("p = MatMul(x, v) q = Relu(p) y = MatMul(q, w)", kTwo);
  expect_kept("p = MatMul(x, v) q = Transpose<perm = [0, 2, 1]>(p) y = MatMul(q, w)", kTwo, "double[B, 9, 5] x");
}
TEST(MergeLinearChain, KeepsVariableWeights) {
  expect_kept("p = MatMul(x, v) y = MatMul(p, z)", "double[5, 9] v = {}", "double[B, S, 5] x, double[9, 3] z");
  expect_kept("p = MatMul(x, v) q = Mul(p, z) y = MatMul(q, w)", kTwo, "double[B, S, 5] x, double[9] z");
}
TEST(MergeLinearChain, KeepsFactorsThatWiden) {
  expect_kept("p = MatMul(x, v) q = Mul(p, k) y = MatMul(q, w)", kTwo + ", double[2, 1, 1, 1] k = {}",
              "double[B, S, 5] x", "double[D, E, F, G] y");
  expect_kept("p = MatMul(x, v) q = Add(p, k) y = MatMul(q, w)",
              "double[5, 1] v = {}, double[9, 3] w = {}, double[9] k = {}");
}
TEST(MergeLinearChain, KeepsSharedLargeWeights) {
  const std::string text = net("p = MatMul(x, v) q = MatMul(p, w) r = MatMul(z, w) y = Mul(q, r)", kTwo,
                               "double[B, S, 5] x, double[B, S, 9] z");
  expect_unchanged(kPass, text, {{"max-growth", "215"}});
  expect_operators(kPass, text, "MatMul MatMul Mul", {{"max-growth", "216"}});
}
TEST(MergeLinearChain, KeepsTheLeftOperand) {
  expect_kept("p = MatMul(v, x) y = MatMul(p, w)", "double[4, 5] v = {}, double[6, 3] w = {}", "double[B, 5, 6] x");
}

}  // namespace
}  // namespace onnxfold::test::merge_linear_chain_test
