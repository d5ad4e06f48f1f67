#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::fuse_norm_test {
namespace {

// 2^-17 is the same number in an attribute and in a double.
const std::string kConstants =
    "float[4] gain = {1, 2, -3, 4}, float[4] bias = {5, 6, 7, 8}, float two = {2}, float one = {1}, float half = {0.5},"
    " float eps = {0.00000762939453125}, int64[1] last = {-1}";

std::string net(const std::string& nodes, int opset = 17, const std::string& more = "",
                const std::string& outputs = "float[2, 3, 4] y") {
  return "<ir_version: 8, opset_import: [\"\" : " + std::to_string(opset) + "]> g (float[2, 3, 4] x) => (" + outputs +
         ") <" + kConstants + more + "> { " + nodes + " }";
}
const std::string kStatistics = R"(
  m = ReduceMean <axes = [-1]> (x)  d = Sub(x, m)  q = Pow(d, two)  v = ReduceMean <axes = [-1]> (q)
  e = Add(v, eps)  r = Sqrt(e) )";
const std::string kChain = kStatistics + "n = Div(d, r)  g = Mul(n, gain)  y = Add(g, bias)";
const std::string kLayerNorm = "y = LayerNormalization <axis = -1, epsilon = 0.00000762939453125> ";

TEST(FuseNorm, NineNodes) { expect_rewrite("fuse-norm", net(kChain), net(kLayerNorm + "(x, gain, bias)", 17)); }
TEST(FuseNorm, OtherSpellings) {
  const std::string after = net(kLayerNorm + "(x, gain, bias)");
  for (const char* nodes : {
           R"(m = ReduceMean <axes = [2]> (x)  d = Sub(x, m)  d2 = Sub(x, m)  q = Mul(d, d)
              v = ReduceMean <axes = [2]> (q)  e = Add(eps, v)  r = Sqrt(e)  n = Div(d2, r)  g = Mul(gain, n)
              y = Add(bias, g))",
           R"(m = ReduceMean <axes = [-1]> (x)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean <axes = [-1]> (q)
              e = Add(v, eps)  r = Sqrt(e)  i = Reciprocal(r)  n = Mul(d, i)  g = Mul(n, gain) y = Add(g, bias))",
           R"(m = ReduceMean <axes = [-1]> (x)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean <axes = [-1]> (q)
              e = Add(v, eps)  r = Pow(e, half)  n = Div(d, r)  g = Mul(n, gain) y = Add(g, bias))",
       }) {
    expect_rewrite("fuse-norm", net(nodes), after);
  }
}
TEST(FuseNorm, AxesAsInput) {
  expect_rewrite("fuse-norm",
                 net(R"(m = ReduceMean(x, last)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean(q, last)
      e = Add(v, eps)  r = Sqrt(e)  n = Div(d, r)  g = Mul(n, gain)  y = Add(g, bias))",
                     18),
                 net(kLayerNorm + "(x, gain, bias)", 18));
}
TEST(FuseNorm, WithoutGainOrBias) {
  const std::string ones = ", float[4] ones = {1, 1, 1, 1}";
  expect_rewrite("fuse-norm", net(kStatistics + "y = Div(d, r)"), net(kLayerNorm + "(x, ones)", 17, ones));
  expect_rewrite("fuse-norm", net(kStatistics + "n = Div(d, r) y = Mul(n, gain)"), net(kLayerNorm + "(x, gain)"));
  expect_rewrite("fuse-norm", net(kStatistics + "n = Div(d, r) y = Add(n, bias)"),
                 net(kLayerNorm + "(x, ones, bias)", 17, ones));
}
TEST(FuseNorm, GainOfHigherRank) {
  expect_rewrite("fuse-norm",
                 net(kStatistics + "n = Div(d, r) y = Mul(n, wide)", 17, ", float[1, 1, 4] wide = {1, 2, -3, 4}"),
                 net(kLayerNorm + "(x, gain)"));
}
TEST(FuseNorm, NormOfANorm) {
  expect_rewrite(
      "fuse-norm", net(kStatistics + R"(z = Div(d, r)
      m2 = ReduceMean <axes = [-1]> (z)  d2 = Sub(z, m2)  q2 = Pow(d2, two)  v2 = ReduceMean <axes = [-1]> (q2)
      e2 = Add(v2, eps)  r2 = Sqrt(e2)  n2 = Div(d2, r2)  y = Mul(n2, gain))"),
      net("z = LayerNormalization <axis = -1, epsilon = 0.00000762939453125> (x, ones) " + kLayerNorm + "(z, gain)", 17,
          ", float[4] ones = {1, 1, 1, 1}"));
}
TEST(FuseNorm, RmsNorm) {
  const std::string after = net("y = RMSNormalization <axis = -1, epsilon = 0.00000762939453125> (x, gain)", 23);
  expect_rewrite("fuse-norm",
                 net(R"(q = Pow(x, two) v = ReduceMean(q, last) e = Add(v, eps) r = Sqrt(e)
      n = Div(x, r) y = Mul(gain, n))",
                     23),
                 after);
  expect_rewrite("fuse-norm",
                 net(R"(q = Mul(x, x) v = ReduceMean(q, last) e = Add(v, eps) r = Sqrt(e)
      i = Div(one, r) n = Mul(x, i) y = Mul(n, gain))",
                     23),
                 after);
}
TEST(FuseNorm, OpsetTooOldLeavesARemark) {
  expect_unchanged("fuse-norm", net(kChain, 16));
  expect_unchanged("fuse-norm", net(R"(q = Mul(x, x) v = ReduceMean(q, last) e = Add(v, eps) r = Sqrt(e)
      n = Div(x, r) y = Mul(n, gain))",
                                    22));
  const auto model = model_from_text(net(kChain, 16));
  std::vector<Remark> remarks;
  ASSERT_TRUE(run_pass("fuse-norm", *model, {}, &remarks));
  ASSERT_EQ(remarks.size(), 1U);
  EXPECT_EQ(remarks[0].reason, "LayerNormalization needs opset 17, the model has 16");
}
TEST(FuseNorm, KeepsChainsOfOtherMeaning) {
  // another axis, a mean over two axes, the bias's square instead of the centred one, no epsilon
  for (const char* nodes : {
           R"(m = ReduceMean <axes = [1]> (x)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean <axes = [1]> (q)
              e = Add(v, eps)  r = Sqrt(e)  y = Div(d, r))",
           R"(m = ReduceMean <axes = [1, 2]> (x)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean <axes = [1, 2]> (q)
              e = Add(v, eps)  r = Sqrt(e)  y = Div(d, r))",
           R"(m = ReduceMean <axes = [-1]> (x)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean <axes = [1]> (q)
              e = Add(v, eps)  r = Sqrt(e)  y = Div(d, r))",
           R"(m = ReduceMean <axes = [-1]> (x)  d = Sub(m, x)  q = Mul(d, d)  v = ReduceMean <axes = [-1]> (q)
              e = Add(v, eps)  r = Sqrt(e)  y = Div(d, r))",
           R"(m = ReduceMean <axes = [-1]> (x)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean <axes = [-1]> (q)
              r = Sqrt(v)  y = Div(d, r))",
           R"(m = ReduceMean <axes = [-1]> (x)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean <axes = [-1]> (q)
              e = Add(v, eps)  r = Sqrt(e)  y = Div(r, d))",
       }) {
    expect_unchanged("fuse-norm", net(nodes));
  }
}
TEST(FuseNorm, KeepsInnerValuesThatAreRead) {
  expect_unchanged("fuse-norm", net(kChain, 17, "", "float[2, 3, 4] y, float[2, 3, 1] r"));
  expect_unchanged("fuse-norm", net(kChain + " other = Relu(d)", 17, "", "float[2, 3, 4] y, float[2, 3, 4] other"));
  expect_unchanged("fuse-norm",
                   "<ir_version: 8, opset_import: [\"\" : 17]> g (float[2, 3, 4] x, bool c) => (float[2, 3, 4] y, "
                   "float[2, 3, 1] z) <" +
                       kConstants + "> { " + kChain +
                       " z = If (c) <then_branch = t () => (float[2, 3, 1] a) { a = Neg(r) },"
                       " else_branch = f () => (float[2, 3, 1] b) { b = Identity(r) }> }");
}
TEST(FuseNorm, OtherGainsStayOutside) {
  const std::string ones = ", float[4] ones = {1, 1, 1, 1}";
  const std::string scalar = ", float k = {3}", rows = ", float[3, 1] k = {1, 2, 3}";
  for (const std::string& k : {scalar, rows}) {
    expect_rewrite(
        "fuse-norm", net(kStatistics + "n = Div(d, r) y = Mul(n, k)", 17, k),
        net("n = LayerNormalization <axis = -1, epsilon = 0.00000762939453125> (x, ones) y = Mul(n, k)", 17, k + ones));
  }
}
TEST(FuseNorm, HalfPrecision) {
  const auto half = [](const std::string& nodes, const std::string& initializers) {
    return "<ir_version: 10, opset_import: [\"\" : 21]> g (float16[2, 4] x) => (float16[2, 4] y) <" + initializers +
           "> { " + nodes + " }";
  };
  const std::string kHalfGain = "float16[4] gain = {1, 2, -3, 4}, ", kFloatGain = "float[4] gain = {1, 2, -3, 4}, ";
  const std::string kInner = R"(c = Cast<to = 1>(x) m = ReduceMean(c, last) d = Sub(c, m) q = Mul(d, d)
      v = ReduceMean(q, last) e = Add(v, eps) r = Sqrt(e) n = Div(d, r) )";
  const std::string kRest = "float eps = {0.0009765625}, int64[1] last = {-1}";
  const std::string norm = "LayerNormalization <axis = -1, epsilon = 0.0009765625> ";
  RewriteChecks checks;
  checks.equivalent = false;
  checks.reason = "the double of a float16 text is no text";
  // Cast back before the gain: what the operator does itself.
  expect_rewrite("fuse-norm", half(kInner + "b = Cast<to = 10>(n) y = Mul(b, gain)", kHalfGain + kRest),
                 half("y = " + norm + "(x, gain)", kHalfGain + kRest), {}, checks);
  // The gain in float32: the casts stay.
  expect_rewrite("fuse-norm", half(kInner + "b = Mul(n, gain) y = Cast<to = 10>(b)", kFloatGain + kRest),
                 half("c = Cast<to = 1>(x) b = " + norm + "(c, gain) y = Cast<to = 10>(b)", kFloatGain + kRest), {},
                 checks);
}
TEST(FuseNorm, DoubleNeedsAnEpsilonThatAttributesHold) {
  const auto text = [](const std::string& nodes, const std::string& eps) {
    return "<ir_version: 8, opset_import: [\"\" : 17]> g (double[2, 4] x) => (double[2, 4] y) <double eps = {" + eps +
           "}, double[4] gain = {1, 2, -3, 4}> { " + nodes + " }";
  };
  const std::string chain = R"(m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) q = Mul(d, d)
      v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e) n = Div(d, r) y = Mul(n, gain))";
  expect_unchanged("fuse-norm", text(chain, "0.00001"));
  expect_rewrite("fuse-norm", text(chain, "0.0009765625"),
                 text("y = LayerNormalization<axis = -1, epsilon = 0.0009765625, stash_type = 11>(x, gain)", "1"));
}

// ---- GroupNorm ----

std::string group(const std::string& nodes, int opset = 21, const std::string& output = "float[N, 4, 3, 2]",
                  const std::string& more = "") {
  return "<ir_version: 10, opset_import: [\"\" : " + std::to_string(opset) + "]> g (float[N, 4, 3, 2] x) => (" +
         output +
         " y) <int64[3] split = {0, 2, -1}, int64[4] full = {0, 4, 3, 2}, float[2] s = {1, 1}, float[2] z = {0, 0},"
         " float[2] s2 = {2, 3}, float[2] z2 = {4, 5}, float[4, 1, 1] w = {1, 2, 3, 4}, float[4, 1, 1] b = {5, 6, 7, "
         "8}" +
         more + "> { " + nodes + " }";
}
const std::string kSplit = "g = Reshape(x, split) ";
const std::string kBack = "r = Reshape(n, full) m = Mul(r, w) y = Add(m, b)";
const std::string kGroupNorm = "y = GroupNormalization<epsilon = 0.0009765625, num_groups = 2>(x, gain, bias)";

TEST(FuseNorm, GroupNorm) {
  expect_rewrite(
      "fuse-norm", group(kSplit + "n = InstanceNormalization<epsilon = 0.0009765625>(g, s, z) " + kBack),
      group(kGroupNorm, 21, "float[N, 4, 3, 2]", ", float[4] gain = {1, 2, 3, 4}, float[4] bias = {5, 6, 7, 8}"));
}
TEST(FuseNorm, GroupNormWithParametersOfGroups) {
  expect_rewrite(
      "fuse-norm", group(kSplit + "n = InstanceNormalization<epsilon = 0.0009765625>(g, s2, z2) " + kBack),
      group(kGroupNorm, 21, "float[N, 4, 3, 2]", ", float[4] gain = {2, 4, 9, 12}, float[4] bias = {9, 14, 22, 28}"));
}
TEST(FuseNorm, GroupNormWithoutGain) {
  expect_rewrite(
      "fuse-norm", group(kSplit + "n = InstanceNormalization<epsilon = 0.0009765625>(g, s, z) y = Reshape(n, full)"),
      group(kGroupNorm, 21, "float[N, 4, 3, 2]", ", float[4] gain = {1, 1, 1, 1}, float[4] bias = {0, 0, 0, 0}"));
}
TEST(FuseNorm, GroupNormNearMisses) {
  const std::string norm = "n = InstanceNormalization<epsilon = 0.0009765625>(g, s, z) ";
  expect_unchanged("fuse-norm", group(kSplit + norm + kBack), {{"group-norm", "false"}});
  expect_unchanged("fuse-norm", group(kSplit + norm + kBack, 20));
  // Another shape afterwards, another reader of an inner value, channels that the groups do not divide.
  expect_unchanged("fuse-norm", group(kSplit + norm + "y = Reshape(n, other)", 21, "float[N, 4, 6]",
                                      ", int64[3] other = {0, 4, 6}"));
  expect_unchanged("fuse-norm",
                   group(kSplit + norm + "k = Relu(g) l = Reshape(k, full) r = Reshape(n, full) y = Add(r, l)"));
  // The axis of the gain is not the channels'.
  expect_rewrite("fuse-norm",
                 group(kSplit + norm + "r = Reshape(n, full) y = Mul(r, rows)", 21, "float[N, 4, 3, 2]",
                       ", float[3, 1] rows = {1, 2, 3}"),
                 group("r = GroupNormalization<epsilon = 0.0009765625, num_groups = 2>(x, gain, bias) y = Mul(r, rows)",
                       21, "float[N, 4, 3, 2]",
                       ", float[3, 1] rows = {1, 2, 3}, float[4] gain = {1, 1, 1, 1}, float[4] bias = {0, 0, 0, 0},"
                       " float[N, 4, 3, 2] r"));
}

}  // namespace
}  // namespace onnxfold::test::fuse_norm_test
