#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::fuse_activation_test {
namespace {

const std::string kConstants =
    "float half = {0.5}, float one = {1}, float two = {2}, float three = {3}, float six = {6}, float zero = {0},"
    " float root2 = {1.4142135623730951}, float inv2 = {0.7071067811865476}, float c = {0.044715},"
    " float s = {0.7978845608028654}, float q = {1.702}";

std::string net(const std::string& nodes, int opset = 20, const std::string& outputs = "float[2, 5] y",
                const std::string& more = "", const std::string& input = "float[2, 5]") {
  return "<ir_version: 10, opset_import: [\"\" : " + std::to_string(opset) + "]> g (" + input + " x) => (" + outputs +
         ") <" + kConstants + more + "> { " + nodes + " }";
}
const std::string kErf = "a = Div(x, root2) e = Erf(a) f = Add(e, one) g = Mul(x, f) y = Mul(g, half)";

TEST(FuseActivation, Gelu) {
  const std::string after = net("y = Gelu(x)");
  for (const char* nodes : {
           "a = Div(x, root2) e = Erf(a) f = Add(e, one) g = Mul(x, f) y = Mul(g, half)",
           "a = Mul(x, inv2) e = Erf(a) f = Add(one, e) h = Mul(x, half) y = Mul(f, h)",
           "a = Div(x, root2) e = Erf(a) f = Add(e, one) h = Mul(half, f) y = Mul(x, h)",
           "a = Div(x, root2) e = Erf(a) f = Add(e, one) g = Mul(f, x) y = Div(g, two)",
       }) {
    expect_rewrite("fuse-activation", net(nodes), after);
  }
}
TEST(FuseActivation, GeluByTanh) {
  const std::string after = net("y = Gelu<approximate = \"tanh\">(x)");
  for (const char* nodes : {
           "p = Pow(x, three) k = Mul(p, c) i = Add(x, k) j = Mul(i, s) t = Tanh(j) f = Add(t, one) h = Mul(x, half) "
           "y = Mul(h, f)",
           "p = Mul(x, x) p3 = Mul(p, x) k = Mul(c, p3) i = Add(k, x) j = Mul(s, i) t = Tanh(j) f = Add(one, t) "
           "h = Mul(f, half) y = Mul(x, h)",
       }) {
    expect_rewrite("fuse-activation", net(nodes), after);
  }
}
TEST(FuseActivation, SigmoidFamily) {
  expect_rewrite("fuse-activation", net("a = Sigmoid(x) y = Mul(x, a)", 24), net("y = Swish(x)", 24));
  expect_rewrite("fuse-activation", net("k = Mul(x, q) a = Sigmoid(k) y = Mul(a, x)", 24),
                 net("y = Swish<alpha = 1.702>(x)", 24));
}
TEST(FuseActivation, HardSwish) {
  const std::string after = net("y = HardSwish(x)", 14);
  for (const char* nodes : {
           "a = Add(x, three) k = Clip(a, zero, six) m = Mul(x, k) y = Div(m, six)",
           "a = Add(x, three) k = Clip(a, zero, six) d = Div(k, six) y = Mul(d, x)",
           "a = HardSigmoid<alpha = 0.16666667163372, beta = 0.5>(x) y = Mul(x, a)",
       }) {
    expect_rewrite("fuse-activation", net(nodes, 14), after);
  }
}
TEST(FuseActivation, MishAndSoftplus) {
  expect_rewrite("fuse-activation", net("a = Softplus(x) t = Tanh(a) y = Mul(x, t)", 18), net("y = Mish(x)", 18));
  expect_rewrite("fuse-activation", net("k = Exp(x) l = Add(k, one) a = Log(l) t = Tanh(a) y = Mul(t, x)", 18),
                 net("y = Mish(x)", 18));
  expect_rewrite("fuse-activation", net("k = Exp(x) l = Add(one, k) y = Log(l)", 13), net("y = Softplus(x)", 13));
  expect_unchanged("fuse-activation", net("a = Softplus(x) t = Tanh(a) y = Mul(x, t)", 17));
  expect_unchanged("fuse-activation", net("k = Exp(x) l = Add(k, two) y = Log(l)", 13));
}
TEST(FuseActivation, OneAfterAnother) {
  expect_rewrite("fuse-activation", net("a = Sigmoid(x) z = Mul(x, a) b = Sigmoid(z) y = Mul(z, b)", 24),
                 net("z = Swish(x) y = Swish(z)", 24));
}
TEST(FuseActivation, OpsetTooOldLeavesARemark) {
  expect_unchanged("fuse-activation", net(kErf, 19));
  expect_unchanged("fuse-activation", net("a = Sigmoid(x) y = Mul(x, a)", 23));
  expect_unchanged("fuse-activation",
                   net("a = Add(x, three) k = Clip(a, zero, six) m = Mul(x, k) y = Div(m, six)", 13));
  const auto model = model_from_text(net(kErf, 19));
  std::vector<Remark> remarks;
  ASSERT_TRUE(run_pass("fuse-activation", *model, {}, &remarks));
  ASSERT_EQ(remarks.size(), 1U);
  EXPECT_EQ(remarks[0].reason, "Gelu needs opset 20, the model has 19");
}
TEST(FuseActivation, KeepsOtherFunctions) {
  for (const char* nodes : {
           "a = Mul(x, root2) e = Erf(a) f = Add(e, one) g = Mul(x, f) y = Mul(g, half)",
           "a = Div(x, root2) e = Erf(a) f = Add(e, two) g = Mul(x, f) y = Mul(g, half)",
           "a = Div(x, root2) e = Erf(a) f = Add(e, one) g = Mul(a, f) y = Mul(g, half)",
           "a = Add(x, q) e = Sigmoid(a) y = Mul(x, e)",
           "a = Add(x, three) k = Clip(a, zero, six) m = Mul(a, k) y = Div(m, six)",
       }) {
    expect_unchanged("fuse-activation", net(nodes, 24));
  }
}
TEST(FuseActivation, KeepsConstantsOfFewDigits) {
  // Near enough to be called GELU, too far to be the same function.
  const std::string text = net("a = Div(x, k) e = Erf(a) f = Add(e, one) g = Mul(x, f) y = Mul(g, half)", 20,
                               "float[2, 5] y", ", float k = {1.414213}");
  expect_unchanged("fuse-activation", text);
}
TEST(FuseActivation, KeepsInnerValuesThatAreRead) {
  expect_unchanged("fuse-activation", net(kErf, 20, "float[2, 5] y, float[2, 5] e"));
  expect_unchanged("fuse-activation", net(kErf + " o = Relu(f)", 20, "float[2, 5] y, float[2, 5] o"));
  expect_unchanged("fuse-activation",
                   "<ir_version: 10, opset_import: [\"\" : 24]> g (float[2] x, bool k) => (float[2] y, float[2] z) { "
                   "a = Sigmoid(x) y = Mul(x, a) z = If (k) <then_branch = t () => (float[2] u) { u = Neg(a) },"
                   " else_branch = f () => (float[2] w) { w = Identity(x) }> }");
}
TEST(FuseActivation, KeepsConstantsThatRaiseTheRank) {
  expect_unchanged("fuse-activation", net("a = Div(x, root2) e = Erf(a) f = Add(e, o) g = Mul(x, f) y = Mul(g, half)",
                                          20, "float[1] y", ", float[1] o = {1}", "float"));
}

}  // namespace
}  // namespace onnxfold::test::fuse_activation_test
