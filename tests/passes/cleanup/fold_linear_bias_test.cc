#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::fold_linear_bias_test {
namespace {

std::string net(const std::string& nodes, const std::string& initializers) {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, 2, 4, 4] x) => (float[A, B, C, D] y) <" + initializers +
         "> { " + nodes + " }";
}

TEST(FoldLinearBias, IntoConvWithoutBias) {
  expect_rewrite("fold-linear-bias",
                 net("c = Conv(x, w) y = Add(c, b)", "float[3, 2, 1, 1] w = {}, float[1, 3, 1, 1] b = {1, 2, 3}"),
                 net("y = Conv(x, w, b)", "float[3, 2, 1, 1] w = {}, float[3] b = {1, 2, 3}"));
}
TEST(FoldLinearBias, AddsToTheBias) {
  expect_rewrite("fold-linear-bias",
                 net("c = ConvTranspose(x, w, d) y = Add(b, c)",
                     "float[2, 3, 1, 1] w = {}, float[3] d = {1, 1, 1}, float b = {2}"),
                 net("y = ConvTranspose(x, w, d)", "float[2, 3, 1, 1] w = {}, float[3] d = {3, 3, 3}"));
}
TEST(FoldLinearBias, Subtracts) {
  expect_rewrite("fold-linear-bias", R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 3] y)
      <float[2, 3] w = {}, float[3] d = {1, 1, 1}, float[3] b = {1, 2, 3}> {
      c = Gemm<beta = 2.0>(x, w, d) y = Sub(c, b) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 3] y)
      <float[2, 3] w = {}, float[3] b = {1, 0, -1}> { y = Gemm(x, w, b) })");
}
TEST(FoldLinearBias, KeepsMatMul) {
  expect_unchanged("fold-linear-bias",
                   "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, T, 2] x) => (float[A, B, C] y) "
                   "<float[2, 2] w = {}, float[2] b = {}> { c = MatMul(x, w) y = Add(c, b) }");
}
TEST(FoldLinearBias, KeepsOtherAxes) {
  expect_unchanged("fold-linear-bias",
                   net("c = Conv(x, w) y = Add(c, b)", "float[4, 2, 1, 1] w = {}, float[4] b = {}"));
  expect_unchanged("fold-linear-bias",
                   net("c = Conv(x, w) y = Add(c, b)", "float[4, 2, 1, 1] w = {}, float[2, 1, 1, 1] b = {}"));
}
TEST(FoldLinearBias, KeepsSharedAndPublicResults) {
  expect_unchanged("fold-linear-bias",
                   net("c = Conv(x, w) d = Add(c, b) y = Mul(c, d)", "float[4, 2, 1, 1] w = {}, float b = {1}"));
  expect_unchanged("fold-linear-bias", R"(<ir_version: 8, opset_import: ["": 17]>
      g (float[N, 2, 4, 4] x) => (float[A, B, C, D] y, float[E, F, G, H] c) <float[4, 2, 1, 1] w = {}, float b = {1}> {
      c = Conv(x, w) y = Add(c, b) })");
}
TEST(FoldLinearBias, KeepsAConstantMinusTheResult) {
  expect_unchanged("fold-linear-bias", net("c = Conv(x, w) y = Sub(b, c)", "float[4, 2, 1, 1] w = {}, float b = {1}"));
}
TEST(FoldLinearBias, KeepsAVariableBias) {
  expect_unchanged("fold-linear-bias", R"(<ir_version: 8, opset_import: ["": 17]>
      g (float[N, 2, 4, 4] x, float[4] d) => (float[A, B, C, D] y) <float[4, 2, 1, 1] w = {}, float b = {1}> {
      c = Conv(x, w, d) y = Add(c, b) })");
}

}  // namespace
}  // namespace onnxfold::test::fold_linear_bias_test
