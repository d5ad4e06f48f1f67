#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::expand_norm_test {
namespace {

std::string net(const std::string& nodes, int opset = 17, const std::string& more = "",
                const std::string& outputs = "float[2, 3, 4] y", const std::string& contrib = "") {
  return "<ir_version: 10, opset_import: [\"\" : " + std::to_string(opset) + contrib +
         "]> g (float[2, 3, 4] x, float[2, 3, 4] s) => (" + outputs +
         ") <float[4] gain = {1, 2, -3, 4}, float[4] bias = {5, 6, 7, 8}, float[4] b2 = {1, -1, 2, 0}" + more + "> { " +
         nodes + " }";
}
const std::string kMicrosoft = ", \"com.microsoft\" : 1";
const std::string kEps = ", float eps = {0.0009765625}";

TEST(ExpandNorm, LayerNorm) {
  expect_rewrite("expand-norm", net("y = LayerNormalization<epsilon = 0.0009765625>(x, gain, bias)"),
                 net(R"(m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes = [-1]>(q)
      e = Add(v, eps) r = Sqrt(e) n = Div(d, r) g = Mul(n, gain) y = Add(g, bias))",
                     17, kEps));
}
TEST(ExpandNorm, AxesAreAnInputFromOpset18) {
  expect_rewrite(
      "expand-norm",
      net("y = LayerNormalization<axis = 1, epsilon = 0.0009765625>(x, wide)", 18, ", float[3, 4] wide = {}"),
      net(R"(m = ReduceMean(x, two) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, two)
      e = Add(v, eps) r = Sqrt(e) n = Div(d, r) y = Mul(n, wide))",
          18, kEps + ", float[3, 4] wide = {}, int64[2] two = {-2, -1}"));
}
TEST(ExpandNorm, FurtherOutputs) {
  expect_rewrite("expand-norm",
                 net("y, mean, inv = LayerNormalization<epsilon = 0.0009765625>(x, gain)", 17, "",
                     "float[2, 3, 4] y, float[2, 3, 1] mean, float[2, 3, 1] inv"),
                 net(R"(mean = ReduceMean<axes = [-1]>(x) d = Sub(x, mean) q = Mul(d, d) v = ReduceMean<axes = [-1]>(q)
      e = Add(v, eps) r = Sqrt(e) inv = Reciprocal(r) n = Div(d, r) y = Mul(n, gain))",
                     17, kEps, "float[2, 3, 4] y, float[2, 3, 1] mean, float[2, 3, 1] inv"));
}
TEST(ExpandNorm, RmsNorm) {
  expect_rewrite("expand-norm", net("y = RMSNormalization<epsilon = 0.0009765625>(x, gain)", 23),
                 net(R"(q = Mul(x, x) v = ReduceMean(q, last) e = Add(v, eps) r = Sqrt(e) n = Div(x, r)
      y = Mul(n, gain))",
                     23, kEps + ", int64[1] last = {-1}"));
}
TEST(ExpandNorm, UndoesFuseNorm) {
  const auto model = model_from_text(net("y = LayerNormalization<axis = -1, epsilon = 0.0009765625>(x, gain, bias)"));
  ASSERT_TRUE(*run_pass("expand-norm", *model));
  EXPECT_EQ(model->graph().node_count(), 9U);
  ASSERT_TRUE(*run_pass("fuse-norm", *model));
  EXPECT_EQ(model->graph().node_count(), 1U);
}
TEST(ExpandNorm, OnnxRuntimesOwn) {
  const OptionMap contrib = {{"only-contrib", "true"}};
  const std::string skip =
      "y, m, i, sum = com.microsoft.SkipLayerNormalization<epsilon = 0.0009765625>(x, s, gain, bias, b2)";
  expect_rewrite(
      "expand-norm", net(skip, 17, "", "float[2, 3, 4] y, float[2, 3, 4] sum", kMicrosoft),
      net("t = Add(x, s) sum = Add(t, b2) y = LayerNormalization<axis = -1, epsilon = 0.0009765625>(sum, gain, bias)",
          17, "", "float[2, 3, 4] y, float[2, 3, 4] sum", kMicrosoft),
      contrib);
  expect_rewrite("expand-norm", net(skip, 16, "", "float[2, 3, 4] y", kMicrosoft),
                 net(R"(t = Add(x, s) u = Add(t, b2) m = ReduceMean<axes = [-1]>(u) d = Sub(u, m) q = Mul(d, d)
      v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e) n = Div(d, r) g = Mul(n, gain) y = Add(g, bias))",
                     16, kEps, "float[2, 3, 4] y", kMicrosoft),
                 contrib);
  expect_rewrite("expand-norm",
                 net("y = com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 0.0009765625>(x, s, gain)", 23, "",
                     "float[2, 3, 4] y", kMicrosoft),
                 net("t = Add(x, s) y = RMSNormalization<axis = -1, epsilon = 0.0009765625>(t, gain)", 23, "",
                     "float[2, 3, 4] y", kMicrosoft),
                 contrib);
  expect_unchanged("expand-norm", net("y = LayerNormalization(x, gain)"), contrib);
}
TEST(ExpandNorm, GroupNorm) {
  const auto text = [](const std::string& nodes, const std::string& more) {
    return "<ir_version: 10, opset_import: [\"\" : 21]> g (float[2, 4, 3] x) => (float[2, 4, 3] y) <"
           "float[4] gain = {1, 2, -3, 4}, float[4] bias = {5, 6, 7, 8}" +
           more + "> { " + nodes + " }";
  };
  expect_rewrite("expand-norm",
                 text("y = GroupNormalization<num_groups = 2, epsilon = 0.0009765625>(x, gain, bias)", ""),
                 text(R"(f = Reshape(x, flat) n = InstanceNormalization<epsilon = 0.0009765625>(f, ones, zeros)
      r = Reshape(n, full) k = Reshape(gain, column) m = Mul(r, k) l = Reshape(bias, column) y = Add(m, l))",
                      ", int64[3] flat = {0, 2, -1}, float[2] ones = {1, 1}, float[2] zeros = {0, 0},"
                      " int64[3] full = {2, 4, 3}, int64[2] column = {-1, 1}"));
}

std::string embeddings(const std::string& call, int opset = 17, const std::string& ids = "int32[B, 3] ids",
                       const std::string& outputs = "double[B, 3, 4] y") {
  return "<ir_version: 9, opset_import: [\"\" : " + std::to_string(opset) + kMicrosoft + "]> g (" + ids +
         ", int32[B, 3] s, int32[B, 3] m, int32[1, 3] at) => (" + outputs +
         ") <double[5, 4] words = {}, double[6, 4] places = {}, double[4, 4] kinds = {}, double[4] gain = {1, 2, -3, "
         "4},"
         " double[4] bias = {5, 6, 7, 8}> { " +
         call + " }";
}
const std::string kEmbed = "com.microsoft.EmbedLayerNormalization<epsilon = 0.0009765625>";

TEST(ExpandNorm, Embeddings) {
  const OptionMap only = {{"only-embeddings", "true"}};
  const std::string end = "Add Gather Add LayerNormalization";
  expect_operators("expand-norm", embeddings("y = " + kEmbed + "(ids, s, words, places, kinds, gain, bias)"),
                   "Gather Shape Gather Slice " + end, only);
  expect_operators("expand-norm", embeddings("y = " + kEmbed + "(ids, s, words, places, kinds, gain, bias, , at)"),
                   "Gather Gather " + end, only);
  expect_operators("expand-norm", embeddings("y = " + kEmbed + "(ids, , words, places, , gain, bias)"),
                   "Gather Shape Gather Slice Add LayerNormalization", {{"only-contrib", "true"}});
  expect_operators("expand-norm", embeddings("y = " + kEmbed + "(ids, , words, places, , gain, bias)", 12),
                   "Gather Shape Gather Slice Add ReduceMean Sub Mul ReduceMean Add Sqrt Div Mul Add", only);
}
TEST(ExpandNorm, EmbeddingsWithFurtherOutputs) {
  const std::string outputs = "double[B, 3, 4] y, int32[B] n, double[B, 3, 4] sum";
  for (const int opset : {12, 17}) {
    const auto model = model_from_text(embeddings(
        "y, n, sum = " + kEmbed + "(ids, s, words, places, kinds, gain, bias, m)", opset, "int32[B, 3] ids", outputs));
    const auto rewritten = model->clone();
    ASSERT_TRUE(*run_pass("expand-norm", *rewritten, {{"only-embeddings", "true"}}));
    EXPECT_EQ(difference(*model, *rewritten, Precision::kFloat64, 1e-12), "");
  }
}
TEST(ExpandNorm, LeavesEmbeddingsThatHaveNoChain) {
  const OptionMap only = {{"only-embeddings", "true"}};
  const std::string call = kEmbed + "(ids, s, words, places, kinds, gain, bias)";
  expect_unchanged("expand-norm", embeddings("y, n = " + call, 17, "int32[B, 3] ids", "double[B, 3, 4] y, int32[B] n"),
                   only);  // counts no mask
  expect_unchanged("expand-norm", embeddings("y = " + call, 10), only);
  expect_unchanged(
      "expand-norm",
      net("y = com.microsoft.SkipLayerNormalization(x, s, gain, bias)", 17, "", "float[2, 3, 4] y", kMicrosoft), only);
  expect_unchanged("expand-norm", net("y = LayerNormalization(x, gain)"), only);
}

}  // namespace
}  // namespace onnxfold::test::expand_norm_test
