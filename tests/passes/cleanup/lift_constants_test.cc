#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::lift_constants_test {
namespace {

TEST(LiftConstants, MakesInitializers) {
  expect_rewrite("lift-constants", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) {
      c = Constant<value = float[3] {1, 2, 3}>()
      s = Constant<value_float = 2.0>()
      a = Mul(x, c)
      y = Add(a, s)
    })",
                 R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) <float[3] c = {1, 2, 3}, float s = {2}> {
      a = Mul(x, c)
      y = Add(a, s)
    })");
}

TEST(LiftConstants, InsideSubgraphs) {
  expect_rewrite("lift-constants", R"(<ir_version: 8, opset_import: ["": 17]>
    g (bool c, float[3] x) => (float[3] y) {
      y = If(c) <then_branch = t () => (float[3] p) { k = Constant<value = float[3] {1, 2, 3}>() p = Mul(x, k) },
                 else_branch = e () => (float[3] q) { q = Abs(x) }>
    })",
                 R"(<ir_version: 8, opset_import: ["": 17]>
    g (bool c, float[3] x) => (float[3] y) {
      y = If(c) <then_branch = t () => (float[3] p) <float[3] k = {1, 2, 3}> { p = Mul(x, k) },
                 else_branch = e () => (float[3] q) { q = Abs(x) }>
    })");
}

TEST(LiftConstants, RemovesUnusedOnes) {
  expect_rewrite("lift-constants", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y) { c = Constant<value_int = 1>() y = Relu(x) })",
                 R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y) { y = Relu(x) })");
}

TEST(LiftConstants, KeepsPublicOnes) {
  expect_unchanged("lift-constants", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y, float[2] c) { c = Constant<value = float[2] {1, 2}>() y = Relu(x) })");
}

TEST(LiftConstants, KeepsResultsOfBranches) {
  expect_unchanged("lift-constants", R"(<ir_version: 8, opset_import: ["": 17]>
    g (bool c, float[3] x) => (float[3] y) {
      y = If(c) <then_branch = t () => (float[3] p) { p = Constant<value = float[3] {1, 2, 3}>() },
                 else_branch = e () => (float[3] q) { q = Abs(x) }>
    })");
}

}  // namespace
}  // namespace onnxfold::test::lift_constants_test
