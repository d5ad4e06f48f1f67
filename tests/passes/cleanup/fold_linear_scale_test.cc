#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::fold_linear_scale_test {
namespace {

std::string net(const std::string& nodes, const std::string& initializers) {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, 2, 4, 4] x) => (float[A, B, C, D] y) <" + initializers +
         "> { " + nodes + " }";
}
std::string matrix(const std::string& nodes, const std::string& initializers) {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, T, 2] x) => (float[A, B, C] y) <" + initializers +
         "> { " + nodes + " }";
}

TEST(FoldLinearScale, PerChannelIntoConv) {
  expect_rewrite("fold-linear-scale",
                 net("c = Conv(x, w, b) y = Mul(c, s)",
                     "float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] b = {1, 2}, float[2, 1, 1] s = {2, 3}"),
                 net("y = Conv(x, w, b)", "float[2, 2, 1, 1] w = {2, 4, 9, 12}, float[2] b = {2, 6}"));
}
TEST(FoldLinearScale, ScalarInEitherOrder) {
  expect_rewrite("fold-linear-scale",
                 net("c = Conv(x, w) y = Mul(s, c)", "float[2, 2, 1, 1] w = {1, 2, 3, 4}, float s = {2}"),
                 net("y = Conv(x, w)", "float[2, 2, 1, 1] w = {2, 4, 6, 8}"));
}
TEST(FoldLinearScale, DivIntoMatMul) {
  expect_rewrite("fold-linear-scale",
                 matrix("c = MatMul(x, w) y = Div(c, s)", "float[2, 2] w = {1, 2, 3, 4}, float[2] s = {2, 4}"),
                 matrix("y = MatMul(x, w)", "float[2, 2] w = {0.5, 0.5, 1.5, 1}"));
}
TEST(FoldLinearScale, IntoTransposedGemm) {
  expect_rewrite("fold-linear-scale", R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 3] y)
      <float[3, 2] w = {1, 1, 1, 1, 1, 1}, float[3] b = {1, 1, 1}, float[1, 3] s = {1, 2, 3}> {
      c = Gemm<transB = 1, alpha = 2.0>(x, w, b) y = Mul(c, s) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 3] y)
      <float[3, 2] w = {1, 1, 2, 2, 3, 3}, float[3] b = {1, 2, 3}> { y = Gemm<transB = 1, alpha = 2.0>(x, w, b) })");
}
TEST(FoldLinearScale, IntoMatMulAndItsBias) {
  expect_rewrite("fold-linear-scale",
                 matrix("c = MatMul(x, w) d = Add(b, c) y = Mul(d, s)",
                        "float[2, 2] w = {1, 2, 3, 4}, float[2] b = {5, 6}, float[2] s = {2, 3}"),
                 matrix("c = MatMul(x, w) y = Add(b, c)", "float[2, 2] w = {2, 6, 6, 12}, float[2] b = {10, 18}"));
  expect_rewrite("fold-linear-scale",
                 matrix("c = MatMul(x, w) d = Add(c, b) y = Div(d, s)",
                        "float[2, 2] w = {1, 2, 3, 4}, float[2] b = {5, 6}, float[1, 1, 1] s = {2}"),
                 matrix("c = MatMul(x, w) y = Add(c, b)", "float[2, 2] w = {0.5, 1, 1.5, 2}, float[2] b = {2.5, 3}"));
}
TEST(FoldLinearScale, OneNumberThroughMoves) {
  const std::string shape = ", int64[3] r = {0, 2, -1}";
  expect_rewrite(
      "fold-linear-scale",
      matrix("c = MatMul(x, w) d = Add(c, b) e = Reshape(d, r) f = Transpose<perm = [1, 0, 2]>(e) y = Mul(s, f)",
             "float[2, 2] w = {1, 2, 3, 4}, float[2] b = {5, 6}, float s = {2}" + shape),
      matrix("c = MatMul(x, w) d = Add(c, b) e = Reshape(d, r) y = Transpose<perm = [1, 0, 2]>(e)",
             "float[2, 2] w = {2, 4, 6, 8}, float[2] b = {10, 12}" + shape));
  expect_rewrite("fold-linear-scale",
                 net("c = Conv(x, w, b) d = Transpose<perm = [0, 1, 3, 2]>(c) y = Div(d, s)",
                     "float[1, 2, 1, 1] w = {2, 4}, float[1] b = {1}, float[1] s = {2}"),
                 net("c = Conv(x, w, b) y = Transpose<perm = [0, 1, 3, 2]>(c)",
                     "float[1, 2, 1, 1] w = {1, 2}, float[1] b = {0.5}"));
}
TEST(FoldLinearScale, KeepsWhatMovesDoNotAllow) {
  const std::string weights = "float[2, 2] w = {}, float[2] b = {}, int64[3] r = {0, 2, -1}";
  expect_unchanged("fold-linear-scale", matrix("c = MatMul(x, w) d = Add(c, b) e = Reshape(d, r) y = Mul(e, s)",
                                               weights + ", float[2, 1] s = {}"));  // along the other axis now
  expect_unchanged("fold-linear-scale",
                   matrix("c = MatMul(x, w) d = Reshape(c, r) e = Relu(d) y = Mul(e, s)", weights + ", float s = {2}"));
  expect_unchanged("fold-linear-scale",
                   matrix("c = MatMul(x, w) d = Reshape(c, r) e = Mul(d, s) f = Reshape(d, r) y = Add(e, f)",
                          weights + ", float s = {2}"));
}
TEST(FoldLinearScale, KeepsSharedResultsOfMatMulAndAdd) {
  const std::string weights = "float[2, 2] w = {}, float[2] b = {}, float s = {2}";
  expect_unchanged("fold-linear-scale", matrix("c = MatMul(x, w) d = Add(c, b) e = Mul(d, s) y = Add(d, e)", weights));
  expect_unchanged("fold-linear-scale",
                   matrix("c = MatMul(x, w) d = Add(c, b) e = Mul(d, s) f = Add(c, e) y = Mul(f, d)", weights));
  expect_unchanged("fold-linear-scale",
                   matrix("c = MatMul(x, w) d = Add(c, b) e = MatMul(d, w) f = Add(e, b) y = Mul(f, s)", weights));
}
TEST(FoldLinearScale, KeepsOtherAxes) {
  expect_unchanged("fold-linear-scale",
                   net("c = Conv(x, w) y = Mul(c, s)", "float[4, 2, 1, 1] w = {}, float[4] s = {}"));
  expect_unchanged("fold-linear-scale",
                   net("c = Conv(x, w) y = Mul(c, s)", "float[1, 2, 1, 1] w = {}, float[2, 1, 1] s = {}"));
  expect_unchanged("fold-linear-scale",
                   matrix("c = MatMul(x, w) y = Mul(c, s)", "float[2, 2] w = {}, float[2, 1] s = {}"));
}
TEST(FoldLinearScale, KeepsWhatWidensTheResult) {
  expect_unchanged("fold-linear-scale",
                   "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, T, 2] x) => (float[A, B, C, D] y) "
                   "<float[2, 2] w = {}, float[1, 1, 1, 2] s = {}> { c = MatMul(x, w) y = Mul(c, s) }");
}
TEST(FoldLinearScale, KeepsSharedResultsAndWeights) {
  expect_unchanged("fold-linear-scale",
                   matrix("c = MatMul(x, w) d = Mul(c, s) y = Add(c, d)", "float[2, 2] w = {}, float s = {2}"));
  expect_unchanged("fold-linear-scale",
                   matrix("c = MatMul(x, w) e = MatMul(c, w) y = Mul(e, s)", "float[2, 2] w = {}, float s = {2}"));
}
TEST(FoldLinearScale, KeepsDivisionByZeroAndOfConstants) {
  expect_unchanged("fold-linear-scale", matrix("c = MatMul(x, w) y = Div(c, s)", "float[2, 2] w = {}, float s = {0}"));
  expect_unchanged("fold-linear-scale", matrix("c = MatMul(x, w) y = Div(s, c)", "float[2, 2] w = {}, float s = {2}"));
}
TEST(FoldLinearScale, KeepsAVariableFactorOrWeight) {
  expect_unchanged("fold-linear-scale", matrix("c = MatMul(x, w) y = Mul(c, x)", "float[2, 2] w = {}"));
  expect_unchanged("fold-linear-scale",
                   R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x, float[2, 2] w) => (float[N, 2] y)
      <float s = {2}> { c = MatMul(x, w) y = Mul(c, s) })");
}

}  // namespace
}  // namespace onnxfold::test::fold_linear_scale_test
