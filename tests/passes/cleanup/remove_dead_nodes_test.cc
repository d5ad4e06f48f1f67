#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::remove_dead_nodes_test {
namespace {

TEST(RemoveDeadNodes, RemovesChainsAndInitializers) {
  expect_rewrite("remove-dead-nodes", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) <float[3] w = {}, float[3] unused = {}> {
      a = Mul(x, w)
      b = Relu(a)
      y = Neg(x)
    })",
                 R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) { y = Neg(x) })");
}

TEST(RemoveDeadNodes, RemovesInsideSubgraphs) {
  expect_rewrite("remove-dead-nodes", R"(<ir_version: 8, opset_import: ["": 17]>
    g (bool c, float[3] x) => (float[3] y) {
      y = If(c) <then_branch = t () => (float[3] p) { dead = Abs(x)  p = Neg(x) },
                 else_branch = e () => (float[3] q) { q = Abs(x) }>
    })",
                 R"(<ir_version: 8, opset_import: ["": 17]>
    g (bool c, float[3] x) => (float[3] y) {
      y = If(c) <then_branch = t () => (float[3] p) { p = Neg(x) },
                 else_branch = e () => (float[3] q) { q = Abs(x) }>
    })");
}

TEST(RemoveDeadNodes, RemovesUncalledFunctions) {
  expect_rewrite("remove-dead-nodes", R"(<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N] x) => (float[N] y) { y = local.used(x) }
    <domain: "local", opset_import: ["": 17]> used (a) => (b) { b = Relu(a) }
    <domain: "local", opset_import: ["": 17]> unused (a) => (b) { b = Abs(a) })",
                 R"(<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N] x) => (float[N] y) { y = local.used(x) }
    <domain: "local", opset_import: ["": 17]> used (a) => (b) { b = Relu(a) })");
}

TEST(RemoveDeadNodes, KeepsCaptured) {
  expect_unchanged("remove-dead-nodes", R"(<ir_version: 8, opset_import: ["": 17]>
    g (bool c, float[3] x) => (float[3] y) <float[3] w = {}> {
      a = Relu(x)
      y = If(c) <then_branch = t () => (float[3] p) { p = Neg(a) },
                 else_branch = e () => (float[3] q) { q = Abs(w) }>
    })");
}

TEST(RemoveDeadNodes, KeepsUnusedInputs) {
  expect_unchanged("remove-dead-nodes", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x, float[N] unused) => (float[N] y) { y = Relu(x) })");
}

TEST(RemoveDeadNodes, KeepsNodesWithOneLiveOutput) {
  expect_unchanged("remove-dead-nodes", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[4] x) => (float[2] y) { y, z = Split<axis = 0>(x) })");
}

TEST(RemoveDeadNodes, KeepsFunctionsCalledByFunctions) {
  expect_unchanged("remove-dead-nodes", R"(<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N] x) => (float[N] y) { y = local.outer(x) }
    <domain: "local", opset_import: ["": 17, "local": 1]> outer (a) => (b) { b = local.inner(a) }
    <domain: "local", opset_import: ["": 17]> inner (a) => (b) { b = Relu(a) })");
}

}  // namespace
}  // namespace onnxfold::test::remove_dead_nodes_test
