#include <gtest/gtest.h>

#include "tests/passes/reparam/attention_text.h"
#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::merge_parallel_linears_test {
namespace {

const std::string kPass = "merge-parallel-linears";

std::string net(const std::string& nodes, const std::string& initializers,
                const std::string& inputs = "double[B, S, 5] x", const std::string& output = "double[D, E, F] y",
                int opset = 17) {
  return "<ir_version: 8, opset_import: [\"\": " + std::to_string(opset) + "]> g (" + inputs + ") => (" + output +
         ") <" + initializers + "> { " + nodes + " }";
}
const std::string kTwo = "double[5, 3] v = {}, double[5, 3] w = {}, double[3] b = {}, double[3] c = {}";
const std::string kBiased = "p = MatMul(x, v) a = Add(p, b) q = MatMul(x, w) d = Add(q, c) y = Mul(a, d)";

TEST(MergeParallelLinears, NumbersOfASmallOne) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[A, B] y, float[C, D] z)
      <float[2, 1] v = {1, 2}, float[2, 2] w = {3, 4, 5, 6}, float[1] b = {7}, float[2] c = {8, 9}> {
      p = MatMul(x, v) y = Add(p, b) q = MatMul(x, w) z = Add(q, c) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[A, B] y, float[C, D] z)
      <float[2, 3] v = {1, 3, 4, 2, 5, 6}, float[3] b = {7, 8, 9}, int64[2] s = {1, 2}> {
      p = MatMul(x, v) q = Add(p, b) y, z = Split<axis = -1>(q, s) })");
}
TEST(MergeParallelLinears, TwoWithBiases) {
  expect_operators(kPass, net(kBiased, kTwo), "MatMul Add Split Mul");
  for (const int opset : {11, 13, 18, 21}) {
    expect_operators(kPass, net(kBiased, kTwo, "double[B, S, 5] x", "double[D, E, F] y", opset),
                     "MatMul Add Split Mul");
  }
}
TEST(MergeParallelLinears, ThreeOfDifferentWidthsAndSpellings) {
  expect_operators(kPass,
                   net("p = MatMul(x, v) t = Transpose(u) q = MatMul(x, t) a = Add(q, e) r = MatMul(x, w) "
                       "s = Concat<axis = -1>(p, a, r) y = Neg(s)",
                       kTwo + ", double[4, 5] u = {}, double[4] e = {}"),
                   "MatMul Add Split Concat Neg");
}
TEST(MergeParallelLinears, ThreeGemms) {
  expect_operators(kPass,
                   net("p = Gemm(x, v, b) q = Gemm<alpha = 0.5>(x, w) r = Gemm<transB = 1, beta = 2.0>(x, u, e) "
                       "y = Concat<axis = 1>(p, q, r)",
                       kTwo + ", double[4, 5] u = {}, double[1, 4] e = {}", "double[N, 5] x", "double[D, E] y"),
                   "Gemm Split Concat");
}
TEST(MergeParallelLinears, ResultsThatAreOutputs) {
  expect_operators(kPass,
                   net("p = MatMul(x, v) y = Add(p, b) q = MatMul(x, w) z = Add(q, c)", kTwo, "double[B, S, 5] x",
                       "double[D, E, F] y, double[G, H, I] z"),
                   "MatMul Add Split");
}
TEST(MergeParallelLinears, QueriesKeysAndValues) {
  expect_operators(kPass, AttentionText().text(),
                   "MatMul Add Split Reshape Transpose Reshape Transpose Reshape Transpose MatMul Div Softmax MatMul "
                   "Transpose Reshape MatMul Add");
}
TEST(MergeParallelLinears, ResultsReadInSubgraphs) {
  expect_operators(kPass,
                   net("p = MatMul(x, v) a = Add(p, b) q = MatMul(x, w) d = Add(q, c) i = If(k) <then_branch = t () => "
                       "(double[D, E, F] e) { e = Relu(a) }, else_branch = f () => (double[D, E, F] h) { h = Neg(d) }> "
                       "y = Mul(d, i)",
                       kTwo, "double[B, S, 5] x, bool k"),
                   "MatMul Add Split If Mul");
}

TEST(MergeParallelLinears, UpToANumberOfRows) {
  expect_operators(kPass, net(kBiased, kTwo, "double[B, 3, 5] x"), "MatMul Add Split Mul", {{"max-rows", "3"}});
  expect_operators(kPass, net(kBiased, kTwo, "double[B, 5] x", "double[D, E] y"), "MatMul Add Split Mul",
                   {{"max-rows", "1"}});
  expect_unchanged(kPass, net(kBiased, kTwo, "double[B, 4, 5] x"), {{"max-rows", "3"}});
  expect_unchanged(kPass, net(kBiased, kTwo, "double[2, 2, 5] x"), {{"max-rows", "3"}});
  expect_unchanged(kPass, net(kBiased, kTwo), {{"max-rows", "3"}});
}
TEST(MergeParallelLinears, KeepsWhereNothingIsSaved) {
  expect_unchanged(kPass, net("p = MatMul(x, v) q = MatMul(x, w) y = Mul(p, q)", kTwo));
  expect_unchanged(kPass,
                   net("p = Gemm(x, v, b) q = Gemm(x, w, c) y = Mul(p, q)", kTwo, "double[N, 5] x", "double[D, E] y"));
  expect_unchanged(kPass, net("p = MatMul(x, v) a = Add(p, b) q = MatMul(x, w) y = Mul(a, q)", kTwo));
}
TEST(MergeParallelLinears, KeepsDifferentInputs) {
  expect_unchanged(kPass, net("p = MatMul(x, v) a = Add(p, b) q = MatMul(z, w) d = Add(q, c) y = Mul(a, d)", kTwo,
                              "double[B, S, 5] x, double[B, S, 5] z"));
}
TEST(MergeParallelLinears, KeepsVariableWeights) {
  expect_unchanged(kPass, net("p = MatMul(x, v) a = Add(p, b) q = MatMul(x, w) d = Add(q, b) y = Mul(a, d)",
                              "double[5, 3] v = {}, double[3] b = {}", "double[B, S, 5] x, double[5, 3] w"));
}
TEST(MergeParallelLinears, KeepsProductsReadBesideTheirBias) {
  expect_unchanged(kPass,
                   net("p = MatMul(x, v) a = Add(p, b) q = MatMul(x, w) d = Add(q, c) e = Mul(a, d) f = Mul(p, q) "
                       "y = Add(e, f)",
                       kTwo));
}
TEST(MergeParallelLinears, KeepsSharedLargeWeights) {
  const std::string text =
      net("p = MatMul(x, v) a = Add(p, b) q = MatMul(x, w) d = Add(q, c) r = MatMul(z, w) e = Mul(a, d) y = Mul(e, r)",
          kTwo, "double[B, S, 5] x, double[B, S, 5] z");
  expect_unchanged(kPass, text, {{"max-growth", "119"}});
  expect_operators(kPass, text, "MatMul Add Split MatMul Mul Mul", {{"max-growth", "120"}});
}
TEST(MergeParallelLinears, KeepsTheLeftOperand) {
  expect_unchanged(kPass, net("p = MatMul(v, x) a = Add(p, b) q = MatMul(w, x) d = Add(q, b) y = Mul(a, d)",
                              "double[3, 5] v = {}, double[3, 5] w = {}, double[6] b = {}", "double[B, 5, 6] x"));
}
TEST(MergeParallelLinears, KeepsQuantizedWeights) {
  expect_unchanged(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[A, B] y)
      <int8[2, 2] i = {1, 2, 3, 4}, float s = {0.5}, float[2, 2] w = {1, 2, 3, 4}, float[2] b = {1, 2}> {
      v = DequantizeLinear(i, s) p = MatMul(x, v) a = Add(p, b) q = MatMul(x, w) d = Add(q, b) y = Mul(a, d) })");
}

}  // namespace
}  // namespace onnxfold::test::merge_parallel_linears_test
