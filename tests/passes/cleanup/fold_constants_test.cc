#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::fold_constants_test {
namespace {

std::string net(const std::string& nodes, const std::string& initializers) {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, 2] x) => (float[A, B] y) <" + initializers + "> { " +
         nodes + " }";
}

TEST(FoldConstants, FoldsChains) {
  expect_rewrite("fold-constants",
                 net("a = Add(c, d) b = Mul(a, a) y = Mul(x, b)", "float[2] c = {1, 2}, float[2] d = {0.5, 1}"),
                 net("y = Mul(x, b)", "float[2] b = {2.25, 9}"));
}
TEST(FoldConstants, FoldsConstantNodes) {
  expect_rewrite("fold-constants", net("c = Constant<value = float[2] {4, 9}>() a = Sqrt(c) y = Mul(x, a)", ""),
                 net("y = Mul(x, a)", "float[2] a = {2, 3}"));
}
TEST(FoldConstants, FoldsEveryOutput) {
  expect_rewrite("fold-constants",
                 net("a, b = Split<axis = 0>(c) d = Mul(x, a) y = Add(d, b)", "float[4] c = {1, 2, 3, 4}"),
                 net("d = Mul(x, a) y = Add(d, b)", "float[2] a = {1, 2}, float[2] b = {3, 4}"));
}
TEST(FoldConstants, MakesAConstantOfAPublicResult) {
  expect_rewrite("fold-constants", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y, float[2] z) <float[2] c = {1, 2}> { y = Relu(x) z = Neg(c) })",
                 R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y, float[2] z) { y = Relu(x) z = Constant<value = float[2] {-1, -2}>() })");
}
TEST(FoldConstants, FoldsInsideSubgraphs) {
  expect_rewrite("fold-constants", R"(<ir_version: 8, opset_import: ["": 17]>
    g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
      y = If(c) <then_branch = t () => (float[2] p) { n = Neg(w) p = Mul(x, n) },
                 else_branch = e () => (float[2] q) { q = Mul(x, w) }> })",
                 R"(<ir_version: 8, opset_import: ["": 17]>
    g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
      y = If(c) <then_branch = t () => (float[2] p) <float[2] n = {-1, -2}> { p = Mul(x, n) },
                 else_branch = e () => (float[2] q) { q = Mul(x, w) }> })");
}
TEST(FoldConstants, KeepsLargeGrowth) {
  const std::string text =
      net("a = Expand(c, s) b = ReduceSum(a) y = Mul(x, b)", "float c = {1}, int64[2] s = {4, 100}");
  const auto model = model_from_text(text);
  std::vector<Remark> remarks;
  const auto changed = run_pass("fold-constants", *model, {{"max-growth", "1000"}}, &remarks);
  EXPECT_TRUE(changed && !*changed);
  ASSERT_EQ(remarks.size(), 1U);
  EXPECT_NE(remarks[0].reason.find("max-growth"), std::string::npos) << remarks[0].reason;
}
TEST(FoldConstants, KeepsHugeShapes) {
  const auto model = model_from_text(net("a = ConstantOfShape(s) b = ReduceMax<keepdims = 0>(a) y = Mul(x, b)",
                                         "int64[3] s = {4611686018427387904, 1000000, 1000000}"));
  const auto changed = run_pass("fold-constants", *model);
  EXPECT_TRUE(changed && !*changed);
}
TEST(FoldConstants, KeepsRandomNodes) {
  const auto model = model_from_text(net("a = RandomNormalLike(c) y = Mul(x, a)", "float[2] c = {1, 2}"));
  const auto changed = run_pass("fold-constants", *model);
  EXPECT_TRUE(changed && !*changed);
}
TEST(FoldConstants, KeepsDequantization) {
  expect_unchanged("fold-constants",
                   net("w = DequantizeLinear(q, s) y = Mul(x, w)", "int8[2] q = {1, 2}, float s = {0.5}"));
}
TEST(FoldConstants, KeepsOverridableOperands) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[2] x, float[2] c) => (float[2] y) <float[2] d = {1, 2}> { a = Mul(c, d) y = Mul(a, x) })");
  model->graph().set_input_default(*model->graph().inputs()[1], *model->graph().find("d")->initializer());
  const auto changed = run_pass("fold-constants", *model);
  EXPECT_TRUE(changed && !*changed);
}
TEST(FoldConstants, KeepsNodesWithAVariableOperand) {
  expect_unchanged("fold-constants", net("a = Mul(x, c) y = Add(a, c)", "float[2] c = {1, 2}"));
}

}  // namespace
}  // namespace onnxfold::test::fold_constants_test
