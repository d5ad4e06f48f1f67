#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::merge_transposes_test {
namespace {

std::string net(const std::string& nodes) {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, 3, 4] x) => (float[A, B, C] y) { " + nodes + " }";
}

TEST(MergeTransposes, Composes) {
  expect_rewrite("merge-transposes",
                 net("a = Transpose<perm = [1, 2, 0]>(x) b = Transpose<perm = [0, 2, 1]>(a) y = Relu(b)"),
                 net("b = Transpose<perm = [1, 0, 2]>(x) y = Relu(b)"));
}
TEST(MergeTransposes, Cancels) {
  expect_rewrite("merge-transposes",
                 net("a = Neg(x) b = Transpose<perm = [1, 2, 0]>(a) c = Transpose<perm = [2, 0, 1]>(b) y = Relu(c)"),
                 net("a = Neg(x) y = Relu(a)"));
}
TEST(MergeTransposes, KnowsTheDefaultPermutation) {
  expect_rewrite("merge-transposes", net("a = Neg(x) b = Transpose(a) c = Transpose(b) y = Relu(c)"),
                 net("a = Neg(x) y = Relu(a)"));
}
TEST(MergeTransposes, CancelsBesideAnotherReader) {
  expect_rewrite("merge-transposes",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y, float[3, N] z) {
      a = Transpose(x) b = Transpose(a) y = Relu(b) z = Neg(a) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y, float[3, N] z) {
      y = Relu(x) a = Transpose(x) z = Neg(a) })");
}
TEST(MergeTransposes, MergesChains) {
  expect_rewrite("merge-transposes",
                 net("a = Transpose<perm = [1, 2, 0]>(x) b = Transpose<perm = [1, 2, 0]>(a) "
                     "c = Transpose<perm = [0, 2, 1]>(b) y = Relu(c)"),
                 net("c = Transpose<perm = [2, 1, 0]>(x) y = Relu(c)"));
}
TEST(MergeTransposes, KeepsWhenTheInnerHasAnotherReader) {
  expect_unchanged("merge-transposes", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3, 4] x) => (float[A, B, C] y, float[D, E, F] z) {
      a = Transpose<perm = [1, 2, 0]>(x) b = Transpose<perm = [0, 2, 1]>(a) y = Relu(b) z = Neg(a) })");
}
TEST(MergeTransposes, KeepsWhenTheInnerIsPublic) {
  expect_unchanged("merge-transposes", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3, 4] x) => (float[A, B, C] y, float[D, E, F] a) {
      a = Transpose<perm = [1, 2, 0]>(x) b = Transpose<perm = [0, 2, 1]>(a) y = Relu(b) })");
}
TEST(MergeTransposes, KeepsWhenTheInnerIsCaptured) {
  expect_unchanged("merge-transposes", R"(<ir_version: 8, opset_import: ["": 17]>
    g (bool c, float[2, 3, 4] x) => (float[3, 2, 4] y) {
      a = Transpose<perm = [1, 2, 0]>(x)
      y = If(c) <then_branch = t () => (float[3, 2, 4] p) { p = Transpose<perm = [0, 2, 1]>(a) },
                 else_branch = e () => (float[3, 2, 4] q) { q = Transpose<perm = [1, 0, 2]>(x) }> })");
}
TEST(MergeTransposes, KeepsWithSomethingBetween) {
  expect_unchanged("merge-transposes", net("a = Transpose(x) b = Relu(a) y = Transpose(b)"));
}

}  // namespace
}  // namespace onnxfold::test::merge_transposes_test
