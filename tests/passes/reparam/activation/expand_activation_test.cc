#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::expand_activation_test {
namespace {

std::string net(const std::string& nodes, int opset = 20) {
  return "<ir_version: 10, opset_import: [\"\" : " + std::to_string(opset) +
         ", \"com.microsoft\" : 1]> g (float[2, 5] x) => (float[2, 5] y) <float half = {0.5}, float one = {1},"
         " float root2 = {1.4142135623730951}, float c = {0.044715}, float s = {0.7978845608028654},"
         " float[5] bias = {1, 2, 3, 4, 5}, float alpha = {1.25}> { " +
         nodes + " }";
}
const std::string kGelu = "a = Div(x, root2) e = Erf(a) f = Add(e, one) g = Mul(x, f) y = Mul(g, half)";

TEST(ExpandActivation, StandardOperators) {
  expect_rewrite("expand-activation", net("y = Gelu(x)"), net(kGelu));
  expect_rewrite("expand-activation", net("y = Gelu<approximate = \"tanh\">(x)"),
                 net("p = Mul(x, x) p3 = Mul(p, x) k = Mul(p3, c) i = Add(x, k) j = Mul(i, s) t = Tanh(j) "
                     "f = Add(t, one) g = Mul(x, f) y = Mul(g, half)"));
  expect_rewrite("expand-activation", net("y = Swish(x)", 24), net("a = Sigmoid(x) y = Mul(x, a)", 24));
  expect_rewrite("expand-activation", net("y = Swish<alpha = 1.25>(x)", 24),
                 net("k = Mul(x, alpha) a = Sigmoid(k) y = Mul(x, a)", 24));
  expect_rewrite("expand-activation", net("y = HardSwish(x)", 14),
                 net("a = HardSigmoid<alpha = 0.16666667163372, beta = 0.5>(x) y = Mul(x, a)", 14));
  expect_rewrite("expand-activation", net("y = Mish(x)", 18), net("a = Softplus(x) t = Tanh(a) y = Mul(x, t)", 18));
}
TEST(ExpandActivation, OnnxRuntimesOwnBecomeStandard) {
  const OptionMap contrib = {{"only-contrib", "true"}};
  expect_rewrite("expand-activation", net("y = com.microsoft.Gelu(x)"), net("y = Gelu(x)"), contrib);
  expect_rewrite("expand-activation", net("y = com.microsoft.BiasGelu(x, bias)"), net("b = Add(x, bias) y = Gelu(b)"),
                 contrib);
  expect_rewrite("expand-activation", net("y = com.microsoft.FastGelu(x, bias)"),
                 net("b = Add(x, bias) y = Gelu<approximate = \"tanh\">(b)"), contrib);
  expect_rewrite("expand-activation", net("y = com.microsoft.FastGelu(x)"), net("y = Gelu<approximate = \"tanh\">(x)"),
                 contrib);
  expect_rewrite("expand-activation", net("y = com.microsoft.QuickGelu<alpha = 1.25>(x)", 24),
                 net("y = Swish<alpha = 1.25>(x)", 24), contrib);
  expect_unchanged("expand-activation", net("y = Gelu(x)"), contrib);
}
TEST(ExpandActivation, OnnxRuntimesOwnBecomeChainsInOldOpsets) {
  const OptionMap contrib = {{"only-contrib", "true"}};
  expect_rewrite("expand-activation", net("y = com.microsoft.Gelu(x)", 13), net(kGelu, 13), contrib);
  expect_rewrite("expand-activation", net("y = com.microsoft.QuickGelu<alpha = 1.25>(x)", 13),
                 net("k = Mul(x, alpha) a = Sigmoid(k) y = Mul(x, a)", 13), contrib);
}
TEST(ExpandActivation, NeedsErf) { expect_unchanged("expand-activation", net("y = com.microsoft.Gelu(x)", 8)); }

}  // namespace
}  // namespace onnxfold::test::expand_activation_test
