#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::fold_gemm_transpose_test {
namespace {

std::string net(const std::string& nodes) {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[2, 3] a, float[3, 2] b) => (float[M, N] y) { " + nodes +
         " }";
}

TEST(FoldGemmTranspose, EitherOperand) {
  expect_rewrite("fold-gemm-transpose", net("t = Transpose(a) u = Transpose<perm = [1, 0]>(b) y = Gemm(t, u)"),
                 net("y = Gemm<transA = 1, transB = 1>(a, b)"));
}
TEST(FoldGemmTranspose, CancelsAFlag) {
  expect_rewrite("fold-gemm-transpose", net("t = Transpose(a) y = Gemm<transA = 1>(t, b)"), net("y = Gemm(a, b)"));
}
TEST(FoldGemmTranspose, LeavesTheTransposeForOthers) {
  expect_rewrite("fold-gemm-transpose", R"(<ir_version: 8, opset_import: ["": 17]>
      g (float[2, 3] a, float[2, 2] b) => (float[M, N] y, float[K, L] z) { t = Transpose(a) y = Gemm(t, b) z = Neg(t) })",
                 R"(<ir_version: 8, opset_import: ["": 17]>
      g (float[2, 3] a, float[2, 2] b) => (float[M, N] y, float[K, L] z) { y = Gemm<transA = 1>(a, b) t = Transpose(a) z = Neg(t) })");
}
TEST(FoldGemmTranspose, KeepsTransposeInOrderAndOfTheBias) {
  expect_unchanged("fold-gemm-transpose", net("t = Transpose<perm = [0, 1]>(a) y = Gemm(t, b)"));
  expect_unchanged("fold-gemm-transpose", R"(<ir_version: 8, opset_import: ["": 17]>
      g (float[2, 3] a, float[3, 2] b, float[2, 2] c) => (float[M, N] y) { t = Transpose(c) y = Gemm(a, b, t) })");
}
TEST(FoldGemmTranspose, KeepsMatMul) {
  expect_unchanged("fold-gemm-transpose", net("t = Transpose(a) y = MatMul(t, a)"));
}

}  // namespace
}  // namespace onnxfold::test::fold_gemm_transpose_test
