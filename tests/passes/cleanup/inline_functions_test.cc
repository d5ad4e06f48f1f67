#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::inline_functions_test {
namespace {

TEST(InlineFunctions, InlinesNestedCalls) {
  expect_rewrite("inline-functions", R"(<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N] x) => (float[N] y) { a = Neg(x) y = local.outer(a) }
    <domain: "local", opset_import: ["": 17, "local": 1]> outer (a) => (b) { c = local.inner(a) b = Abs(c) }
    <domain: "local", opset_import: ["": 17]> inner (a) => (b) { b = Relu(a) })",
                 R"(<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N] x) => (float[N] y) { a = Neg(x) c = Relu(a) y = Abs(c) }
    <domain: "local", opset_import: ["": 17, "local": 1]> outer (a) => (b) { c = local.inner(a) b = Abs(c) }
    <domain: "local", opset_import: ["": 17]> inner (a) => (b) { b = Relu(a) })");
}
TEST(InlineFunctions, GivesAttributesToTheBody) {
  expect_rewrite("inline-functions", R"(<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N, 3] x) => (float[N, 3] y) { y = local.f<axis = 0>(x) }
    <domain: "local", opset_import: ["": 17]> f <axis> (a) => (b) { b = Softmax<axis: int = @axis>(a) })",
                 R"(<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N, 3] x) => (float[N, 3] y) { y = Softmax<axis = 0>(x) }
    <domain: "local", opset_import: ["": 17]> f <axis> (a) => (b) { b = Softmax<axis: int = @axis>(a) })");
}
TEST(InlineFunctions, InlinesInsideSubgraphs) {
  expect_rewrite("inline-functions", R"(<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (bool c, float[3] x) => (float[3] y) {
      y = If(c) <then_branch = t () => (float[3] p) { p = local.f(x) }, else_branch = e () => (float[3] q) { q = Abs(x) }> }
    <domain: "local", opset_import: ["": 17]> f (a) => (b) { b = Relu(a) })",
                 R"(<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (bool c, float[3] x) => (float[3] y) {
      y = If(c) <then_branch = t () => (float[3] p) { p = Relu(x) }, else_branch = e () => (float[3] q) { q = Abs(x) }> }
    <domain: "local", opset_import: ["": 17]> f (a) => (b) { b = Relu(a) })");
}
TEST(InlineFunctions, KeepsAFunctionThatReturnsItsInput) {
  expect_rewrite("inline-functions", R"(<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N] x) => (float[N] y) { y = local.f(x) }
    <domain: "local", opset_import: ["": 17]> f (a) => (b) { b = Identity(a) })",
                 R"(<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N] x) => (float[N] y) { y = Identity(x) }
    <domain: "local", opset_import: ["": 17]> f (a) => (b) { b = Identity(a) })");
}
TEST(InlineFunctions, LeavesAnotherOpsetWithARemark) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N] x) => (float[N] y) { y = local.f(x) }
    <domain: "local", opset_import: ["": 13]> f (a) => (b) { b = Relu(a) })");
  std::vector<Remark> remarks;
  const auto changed = run_pass("inline-functions", *model, {}, &remarks);
  EXPECT_TRUE(changed && !*changed);
  ASSERT_EQ(remarks.size(), 1U);
  EXPECT_NE(remarks[0].reason.find("another opset"), std::string::npos);
}
TEST(InlineFunctions, LeavesUnknownDomains) {
  expect_unchanged("inline-functions", R"(<ir_version: 8, opset_import: ["": 17, "custom": 1]>
    g (float[N] x) => (float[N] y) { y = custom.f(x) })");
}

}  // namespace
}  // namespace onnxfold::test::inline_functions_test
