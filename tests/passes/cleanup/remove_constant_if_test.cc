#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::remove_constant_if_test {
namespace {

std::string net(const std::string& initializer, const std::string& nodes) {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[3] x) => (float[3] y) " + initializer + " { " + nodes +
         " }";
}
const std::string kIf =
    R"(a = Neg(x) y = If(c) <then_branch = t () => (float[3] p) <float[3] k = {1, 2, 3}> { m = Mul(a, k) p = Relu(m) },
                 else_branch = e () => (float[3] q) { q = Abs(x) }>)";

TEST(RemoveConstantIf, TakesThen) {
  expect_rewrite("remove-constant-if", net("<bool c = {1}>", kIf),
                 net("<float[3] k = {1, 2, 3}>", "a = Neg(x) m = Mul(a, k) y = Relu(m)"));
}
TEST(RemoveConstantIf, TakesElse) {
  expect_rewrite("remove-constant-if", net("<bool c = {0}>", kIf), net("", "a = Neg(x) y = Abs(x)"));
}
TEST(RemoveConstantIf, PassesCapturedValuesOn) {
  expect_rewrite("remove-constant-if",
                 net("<bool c = {1}>", R"(a = Neg(x) y = If(c) <then_branch = t () => (float[3] p) { p = Identity(a) },
                 else_branch = e () => (float[3] q) { q = Abs(x) }>)"),
                 net("", "a = Neg(x) y = Identity(a)"));
}
TEST(RemoveConstantIf, KeepsNestedIfs) {
  expect_rewrite("remove-constant-if",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (bool d, float[3] x) => (float[3] y) <bool c = {1}> {
      y = If(c) <then_branch = t () => (float[3] p) {
            b = Relu(x)
            p = If(d) <then_branch = u () => (float[3] r) { r = Neg(b) }, else_branch = v () => (float[3] s) { s = Abs(x) }> },
          else_branch = e () => (float[3] q) { q = Abs(x) }> })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (bool d, float[3] x) => (float[3] y) {
      b = Relu(x)
      y = If(d) <then_branch = u () => (float[3] r) { r = Neg(b) }, else_branch = v () => (float[3] s) { s = Abs(x) }> })");
}
TEST(RemoveConstantIf, KeepsVariableConditions) {
  expect_unchanged("remove-constant-if",
                   R"(<ir_version: 8, opset_import: ["": 17]> g (bool c, float[3] x) => (float[3] y) {
      y = If(c) <then_branch = t () => (float[3] p) { p = Neg(x) }, else_branch = e () => (float[3] q) { q = Abs(x) }> })");
}
TEST(RemoveConstantIf, KeepsLoops) {
  expect_unchanged(
      "remove-constant-if",
      R"(<ir_version: 8, opset_import: ["": 17]> g (float[3] x) => (float[3] y) <int64 n = {2}, bool c = {1}> {
      y = Loop(n, c, x) <body = b (int64 i, bool k, float[3] s) => (bool l, float[3] t) { l = Identity(k) t = Neg(s) }> })");
}

}  // namespace
}  // namespace onnxfold::test::remove_constant_if_test
