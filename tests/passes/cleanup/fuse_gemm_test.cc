#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::fuse_gemm_test {
namespace {

std::string net(const std::string& nodes, const std::string& initializers, const std::string& type = "float[N, 2]") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (" + type + " x) => (float[A, B] y) <" + initializers + "> { " +
         nodes + " }";
}

TEST(FuseGemm, InEitherOrder) {
  const std::string after = net("y = Gemm(x, w, b)", "float[2, 3] w = {}, float[3] b = {}");
  expect_rewrite("fuse-gemm", net("c = MatMul(x, w) y = Add(c, b)", "float[2, 3] w = {}, float[3] b = {}"), after);
  expect_rewrite("fuse-gemm", net("c = MatMul(x, w) y = Add(b, c)", "float[2, 3] w = {}, float[3] b = {}"), after);
}
TEST(FuseGemm, WithBroadcastBias) {
  expect_rewrite("fuse-gemm", net("c = MatMul(x, w) y = Add(c, b)", "float[2, 3] w = {}, float[1, 1] b = {}"),
                 net("y = Gemm(x, w, b)", "float[2, 3] w = {}, float[1, 1] b = {}"));
}
TEST(FuseGemm, KeepsOtherRanks) {
  expect_unchanged("fuse-gemm", net("c = MatMul(x, w) d = Add(c, b) y = ReduceSum<keepdims = 0>(d, a)",
                                    "float[2, 3] w = {}, float[3] b = {}, int64[1] a = {0}", "float[N, M, 2]"));
  expect_unchanged("fuse-gemm", net("c = MatMul(x, w) d = Add(c, b) y = ReduceSum<keepdims = 0>(d, a)",
                                    "float[2, 3] w = {}, float[1, 1, 3] b = {}, int64[1] a = {0}"));
}
TEST(FuseGemm, KeepsABiasThatWidens) {
  expect_unchanged("fuse-gemm", net("c = MatMul(x, w) y = Add(c, b)", "float[2, 1] w = {}, float[3] b = {}"));
  expect_unchanged("fuse-gemm",
                   net("c = MatMul(x, w) y = Add(c, b)", "float[2, 3] w = {}, float[4, 3] b = {}", "float[1, 2]"));
}
TEST(FuseGemm, KeepsSharedResults) {
  expect_unchanged("fuse-gemm",
                   net("c = MatMul(x, w) d = Add(c, b) y = Mul(c, d)", "float[2, 3] w = {}, float[3] b = {}"));
  expect_unchanged("fuse-gemm", net("c = MatMul(x, w) y = Add(c, c)", "float[2, 3] w = {}"));
}
TEST(FuseGemm, KeepsIntegers) {
  expect_unchanged("fuse-gemm", R"(<ir_version: 8, opset_import: ["": 17]> g (int32[N, 2] x) => (int32[N, 3] y)
      <int32[2, 3] w = {}, int32[3] b = {}> { c = MatMul(x, w) y = Add(c, b) })");
}

}  // namespace
}  // namespace onnxfold::test::fuse_gemm_test
