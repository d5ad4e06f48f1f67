#include "analysis/structure/feed_forward.h"

#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::feed_forward_test {
namespace {

using test::model_from_text;

std::string graph_text(const std::string& nodes) {
  return "<ir_version: 8, opset_import: [\"\" : 20, \"com.microsoft\" : 1]> g (float[B, S, 8] x) => (float[B, S, 8] y) "
         "<float[8, 32] w1 = {}, float[32] b1 = {}, float[8, 32] w2 = {}, float[32, 8] w3 = {}, float[8, 64] w12 = {}, "
         "float[16, 8] narrow = {}, float[8, 4] router = {}, int64[1] two = {2}, int64[2] flat = {-1, 8}, float[32, 3] "
         "head = {}> { " +
         nodes + " }";
}

struct Found {
  std::unique_ptr<Model> model;  // the pointers lead into it
  std::vector<FeedForward> all;
};

Found feed_forwards(const std::string& nodes) {
  Found found;
  found.model = model_from_text(graph_text(nodes));
  found.all = find_feed_forwards(found.model->graph());
  return found;
}

TEST(FeedForward, Plain) {
  for (const char* nodes : {
           "u = MatMul(x, w1) b = Add(u, b1) a = Gelu(b) y = MatMul(a, w3)",
           "u = MatMul(x, w1) a = com.microsoft.BiasGelu(u, b1) y = MatMul(a, w3)",
           "u = MatMul(x, w1) a = com.microsoft.FastGelu(u, b1) y = MatMul(a, w3)",
           "u = MatMul(x, w1) b = Add(u, b1) s = Sigmoid(b) a = Mul(b, s) d = Identity(a) y = MatMul(d, w3)",
       }) {
    const Found found = feed_forwards(nodes);
    ASSERT_EQ(found.all.size(), 1U) << nodes;
    EXPECT_EQ(found.all[0].hidden, 32) << nodes;
    EXPECT_EQ(found.all[0].width(), 8);
    EXPECT_FALSE(found.all[0].gated());
    EXPECT_EQ(found.all[0].input->name(), "x");
    EXPECT_EQ(found.all[0].output->name(), "y");
    EXPECT_EQ(found.all[0].nodes.size(), found.model->graph().node_count()) << nodes;
  }
}

TEST(FeedForward, Gated) {
  for (const char* nodes : {
           "g = MatMul(x, w1) s = Sigmoid(g) a = Mul(g, s) u = MatMul(x, w2) m = Mul(a, u) y = MatMul(m, w3)",
           "g = MatMul(x, w1) a = Gelu(g) u = MatMul(x, w2) m = Mul(u, a) y = MatMul(m, w3)",
       }) {
    const Found found = feed_forwards(nodes);
    ASSERT_EQ(found.all.size(), 1U) << nodes;
    EXPECT_TRUE(found.all[0].gated() && !found.all[0].packed());
    EXPECT_EQ(found.all[0].gate->weight->name(), "w1");
    EXPECT_EQ(found.all[0].up.weight->name(), "w2");
    EXPECT_EQ(found.all[0].nodes.size(), found.model->graph().node_count()) << nodes;
  }
}

TEST(FeedForward, GateAndUpAsHalvesOfOneLinear) {
  const Found found = feed_forwards(
      "l = MatMul(x, w12) u, g = Split <axis = -1, num_outputs = 2> (l) a = Gelu(g) m = Mul(u, a) y = MatMul(m, w3)");
  ASSERT_EQ(found.all.size(), 1U);
  EXPECT_TRUE(found.all[0].packed());
  EXPECT_EQ(found.all[0].up_offset, 0);
  EXPECT_EQ(found.all[0].gate_offset, 32);
  EXPECT_EQ(found.all[0].hidden, 32);
}

TEST(FeedForward, FusedGemmIsUpAndActivation) {
  const Found found = feed_forwards(
      "r = Reshape(x, flat) a = com.microsoft.FusedGemm <activation = \"Relu\", transB = 0> (r, w1, b1) "
      "z = MatMul(a, w3) y = Identity(x)");
  ASSERT_EQ(found.all.size(), 1U);
  EXPECT_EQ(found.all[0].hidden, 32);
  EXPECT_EQ(found.all[0].up.bias->name(), "b1");
  EXPECT_EQ(found.all[0].activation->kind, ActivationMatch::Kind::kRelu);
  EXPECT_EQ(found.all[0].fused_bias, found.all[0].up.product);  // passes that rewrite a plain one ask for this
}

TEST(FeedForward, NearMisses) {
  for (const char* nodes : {
           "u = MatMul(x, w1) y = MatMul(u, w3)",                                // no activation: a low-rank chain
           "u = MatMul(x, w1) a = Gelu(u) h = MatMul(a, head) y = Identity(x)",  // a classifier
           "a = Gelu(x) h = MatMul(a, w1) y = Identity(x)",                      // no up
           // only half of up is used
           "u = MatMul(x, w1) h, r = Split <axis = -1, num_outputs = 2> (u) a = Gelu(h) y = MatMul(a, narrow)",
           // somebody else reads the hidden value, before or behind the activation
           "u = MatMul(x, w1) a = Gelu(u) h = MatMul(u, head) y = MatMul(a, w3)",
           "u = MatMul(x, w1) a = Gelu(u) h = MatMul(a, head) y = MatMul(a, w3)",
           // FusedGemm with an activation that is none of ours
           "r = Squeeze(x) a = com.microsoft.FusedGemm <activation = \"LeakyRelu\"> (r, w1, b1) z = MatMul(a, w3) "
           "y = Identity(x)",
           // gate and up read different values
           "n = Neg(x) g = MatMul(x, w1) a = Gelu(g) u = MatMul(n, w2) m = Mul(a, u) y = MatMul(m, w3)",
       }) {
    EXPECT_TRUE(feed_forwards(nodes).all.empty()) << nodes;
  }
}

TEST(MixtureOfExperts, IsARouterWithTopK) {
  const auto model = model_from_text(
      graph_text("l = MatMul(x, router) p = Softmax <axis = -1> (l) v, i = TopK <axis = -1> (p, two) y = Identity(x)"));
  const auto found = find_mixtures(model->graph());
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].experts, 4);
  EXPECT_EQ(found[0].chosen, 2);
  EXPECT_EQ(found[0].input->name(), "x");
}

TEST(MixtureOfExperts, TopKOfSomethingElseIsNone) {
  const auto model = model_from_text(graph_text("n = Neg(x) v, i = TopK <axis = -1> (n, two) y = Identity(x)"));
  EXPECT_TRUE(find_mixtures(model->graph()).empty());
}

}  // namespace
}  // namespace onnxfold::feed_forward_test
