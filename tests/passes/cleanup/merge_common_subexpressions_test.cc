#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::merge_common_subexpressions_test {
namespace {

std::string net(const std::string& nodes, const std::string& initializers = "") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, 4] x, float[N, 4] z) => (float[A, B] y) <" +
         initializers + "> { " + nodes + " }";
}

TEST(MergeCommonSubexpressions, Merges) {
  expect_rewrite("merge-common-subexpressions", net("a = Relu(x) b = Relu(x) y = Add(a, b)"),
                 net("a = Relu(x) y = Add(a, a)"));
}
TEST(MergeCommonSubexpressions, MergesChains) {
  expect_rewrite("merge-common-subexpressions", net("a = Relu(x) b = Neg(a) c = Relu(x) d = Neg(c) y = Mul(b, d)"),
                 net("a = Relu(x) b = Neg(a) y = Mul(b, b)"));
}
TEST(MergeCommonSubexpressions, MergesSwappedOperands) {
  expect_rewrite("merge-common-subexpressions", net("a = Add(x, z) b = Add(z, x) y = Mul(a, b)"),
                 net("a = Add(x, z) y = Mul(a, a)"));
}
TEST(MergeCommonSubexpressions, ComparesAttributes) {
  expect_rewrite(
      "merge-common-subexpressions",
      net("a = Softmax<axis = 1>(x) b = Softmax<axis = 1>(x) c = Softmax<axis = 0>(x) d = Add(a, b) y = Add(d, c)"),
      net("a = Softmax<axis = 1>(x) c = Softmax<axis = 0>(x) d = Add(a, a) y = Add(d, c)"));
}
TEST(MergeCommonSubexpressions, KeepsAPublicName) {
  expect_rewrite("merge-common-subexpressions", net("a = Relu(x) b = Neg(a) y = Relu(x)"),
                 net("y = Relu(x) b = Neg(y)"));
}
TEST(MergeCommonSubexpressions, KeepsTwoPublicResults) {
  expect_unchanged("merge-common-subexpressions", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Relu(x) })");
}
TEST(MergeCommonSubexpressions, KeepsOrderedOperands) {
  expect_unchanged("merge-common-subexpressions", net("a = Sub(x, z) b = Sub(z, x) y = Mul(a, b)"));
  expect_unchanged("merge-common-subexpressions",
                   net("a = Concat<axis = 0>(x, z) b = Concat<axis = 0>(z, x) y = Mul(a, b)"));
}
TEST(MergeCommonSubexpressions, KeepsRandomNodes) {
  const auto model = model_from_text(net("a = RandomNormalLike(x) b = RandomNormalLike(x) y = Mul(a, b)"));
  const auto changed = run_pass("merge-common-subexpressions", *model);
  EXPECT_TRUE(changed && !*changed);
}
TEST(MergeCommonSubexpressions, KeepsOtherAttributesAndInputs) {
  expect_unchanged("merge-common-subexpressions",
                   net("a = Softmax<axis = 1>(x) b = Softmax<axis = 0>(x) y = Mul(a, b)"));
  expect_unchanged("merge-common-subexpressions", net("a = Relu(x) b = Relu(z) y = Mul(a, b)"));
  expect_unchanged("merge-common-subexpressions",
                   net("a = Clip(x, c) b = Clip(x, \"\", c) y = Mul(a, b)", "float c = {0.5}"));
}

}  // namespace
}  // namespace onnxfold::test::merge_common_subexpressions_test
