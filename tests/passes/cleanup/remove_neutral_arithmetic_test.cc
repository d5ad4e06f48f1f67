#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::remove_neutral_arithmetic_test {
namespace {

std::string net(const std::string& nodes, const std::string& initializers) {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, 4] x) => (float[N, 4] y) <" + initializers + "> { " +
         nodes + " }";
}
void expect_removed(const std::string& node, const std::string& initializers) {
  expect_rewrite(
      "remove-neutral-arithmetic", net("a = Neg(x) " + node + " y = Relu(b)", initializers),
      "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, 4] x) => (float[N, 4] y) { a = Neg(x) y = Relu(a) }");
}
void expect_kept(const std::string& node, const std::string& initializers) {
  expect_unchanged("remove-neutral-arithmetic",
                   net("a = Neg(x) " + node + " s = ReduceSum<keepdims = 0>(b) y = Mul(x, s)", initializers));
}

TEST(RemoveNeutralArithmetic, Removes) {
  expect_removed("b = Add(a, c)", "float c = {0}");
  expect_removed("b = Add(c, a)", "float[4] c = {0, 0, 0, 0}");
  expect_removed("b = Sub(a, c)", "float[1] c = {0}");
  expect_removed("b = Mul(a, c)", "float[1, 1] c = {1}");
  expect_removed("b = Mul(c, a)", "float c = {1}");
  expect_removed("b = Div(a, c)", "float c = {1}");
  expect_removed("b = Pow(a, c)", "float c = {1}");
}
TEST(RemoveNeutralArithmetic, ARowOfTheLastAxisNeedsNoOtherAxis) {
  const auto unknown = [](const std::string& nodes, const std::string& initializers) {
    return "<ir_version: 8, opset_import: [\"\": 17]> g (float[?, 4] x) => (float[?, 4] y) <" + initializers + "> { " +
           nodes + " }";
  };
  expect_rewrite(
      "remove-neutral-arithmetic", unknown("a = Neg(x) b = Add(a, c) y = Relu(b)", "float[4] c = {0, 0, 0, 0}"),
      "<ir_version: 8, opset_import: [\"\": 17]> g (float[?, 4] x) => (float[?, 4] y) { a = Neg(x) y = Relu(a) }");
  // The first axis may be 1, and then the sum is wider.
  expect_unchanged("remove-neutral-arithmetic",
                   unknown("a = Neg(x) b = Add(a, c) y = Relu(b)", "float[2, 4] c = {0, 0, 0, 0, 0, 0, 0, 0}"));
}
TEST(RemoveNeutralArithmetic, KeepsOthers) {
  expect_kept("b = Add(a, c)", "float c = {1}");
  expect_kept("b = Add(a, c)", "float[4] c = {0, 0, 1, 0}");
  expect_kept("b = Sub(c, a)", "float c = {0}");
  expect_kept("b = Div(c, a)", "float c = {1}");
  expect_kept("b = Pow(c, a)", "float c = {1}");
  expect_kept("b = Mul(a, c)", "float c = {0}");
}
TEST(RemoveNeutralArithmetic, KeepsWhatWidensTheShape) {
  expect_kept("b = Mul(a, c)", "float[1, 1, 1] c = {1}");
  expect_kept("b = Add(a, c)", "float[2, 1, 4] c = {0, 0, 0, 0, 0, 0, 0, 0}");
}
TEST(RemoveNeutralArithmetic, KeepsAnOverridableOperand) {
  expect_unchanged("remove-neutral-arithmetic", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 4] x, float[1] c) => (float[N, 4] y) { y = Mul(x, c) })");
}
TEST(RemoveNeutralArithmetic, KeepsUnknownRank) {
  expect_unchanged("remove-neutral-arithmetic", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 4] x, int64[K] s) => (float y) <float[1, 1] c = {1}> {
      a = Reshape(x, s) b = Mul(a, c) y = ReduceSum<keepdims = 0>(b) })");
}

TEST(RemoveNeutralArithmetic, Logic) {
  const auto logic = [](const std::string& node, const std::string& initializers) {
    return "<ir_version: 8, opset_import: [\"\": 17]> g (bool[2, 3] x) => (bool[2, 3] y) <" + initializers +
           "> { a = Not(x) " + node + " y = Not(b) }";
  };
  const std::string gone =
      "<ir_version: 8, opset_import: [\"\": 17]> g (bool[2, 3] x) => (bool[2, 3] y) { a = Not(x) y = Not(a) }";
  expect_rewrite("remove-neutral-arithmetic", logic("b = And(t, a)", "bool t = {1}"), gone);
  expect_rewrite("remove-neutral-arithmetic", logic("b = Or(a, f)", "bool[3] f = {0, 0, 0}"), gone);
  expect_unchanged("remove-neutral-arithmetic", logic("b = And(a, f)", "bool f = {0}"));
  expect_unchanged("remove-neutral-arithmetic", logic("b = Or(a, t)", "bool t = {1}"));
  expect_unchanged("remove-neutral-arithmetic", logic("b = And(a, m)", "bool[3] m = {1, 0, 1}"));
}

}  // namespace
}  // namespace onnxfold::test::remove_neutral_arithmetic_test
