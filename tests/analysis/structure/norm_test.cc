#include "analysis/structure/norm.h"

#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::norm_test {
namespace {

using test::model_from_text;

std::string graph_text(const std::string& nodes, int opset = 17, const std::string& outputs = "float[2, 4] y") {
  return "<ir_version: 8, opset_import: [\"\" : " + std::to_string(opset) +
         ", \"com.microsoft\" : 1]> g (float[2, 4] x, float[2, 4] s) => (" + outputs +
         ") <float[4] gain = {1, 2, 3, 4}, float[4] bias = {5, 6, 7, 8}, float two = {2}, float one = {1},"
         " float half = {0.5}, float eps = {0.00001}, int64[1] last = {-1}> { " +
         nodes + " }";
}

// The one norm of a graph, and the model that its pointers lead into.
struct Found : Norm {
  std::unique_ptr<Model> model;
};

Found only_norm(const std::string& text) {
  Found found;
  found.model = model_from_text(text);
  const auto norms = find_norms(found.model->graph());
  EXPECT_EQ(norms.size(), 1U) << text;
  if (!norms.empty()) static_cast<Norm&>(found) = norms.front();
  return found;
}

const std::string kChain = R"(
  m = ReduceMean <axes = [-1]> (x)  d = Sub(x, m)  q = Pow(d, two)  v = ReduceMean <axes = [-1]> (q)
  e = Add(v, eps)  r = Sqrt(e)  n = Div(d, r)  g = Mul(n, gain)  y = Add(g, bias))";

TEST(Norm, TheNineNodeChainIsALayerNorm) {
  const auto model = model_from_text(graph_text(kChain));
  const auto norms = find_norms(model->graph());
  ASSERT_EQ(norms.size(), 1U);
  EXPECT_EQ(norms[0].kind, Norm::Kind::kLayer);
  EXPECT_EQ(norms[0].nodes.size(), 9U);
  EXPECT_EQ(norms[0].width, 4);
  EXPECT_NEAR(norms[0].epsilon, 1e-5, 1e-9);
  EXPECT_EQ(norms[0].input->name(), "x");
  EXPECT_EQ(norms[0].output->name(), "y");
  EXPECT_EQ(norms[0].gain->name(), "gain");
  EXPECT_EQ(norms[0].bias->name(), "bias");
}

TEST(Norm, OtherSpellingsOfLayerNorm) {
  for (const char* nodes : {
           // two subtractions, square by Mul, swapped operands of the affine part
           R"(m = ReduceMean <axes = [1]> (x)  d = Sub(x, m)  d2 = Sub(x, m)  q = Mul(d, d)
              v = ReduceMean <axes = [1]> (q)  e = Add(eps, v)  r = Sqrt(e)  n = Div(d2, r)  g = Mul(gain, n)
              y = Add(bias, g))",
           // reciprocal, no affine part
           R"(m = ReduceMean <axes = [-1]> (x)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean <axes = [-1]> (q)
              e = Add(v, eps)  r = Sqrt(e)  i = Reciprocal(r)  y = Mul(d, i))",
           R"(y = LayerNormalization <axis = -1> (x, gain, bias))",
           R"(y = LayerNormalization <axis = 1> (x, gain))",
       }) {
    EXPECT_EQ(only_norm(graph_text(nodes)).kind, Norm::Kind::kLayer);
  }
}

TEST(Norm, SpellingsOfRmsNorm) {
  for (const char* nodes : {
           R"(q = Pow(x, two)  v = ReduceMean <axes = [-1]> (q)  e = Add(v, eps)  r = Sqrt(e)  i = Reciprocal(r)
              n = Mul(x, i)  y = Mul(n, gain))",
           R"(q = Mul(x, x)  v = ReduceMean <axes = [-1]> (q)  e = Add(v, eps)  r = Sqrt(e)  i = Div(one, r)
              n = Mul(i, x)  y = Mul(gain, n))",
           R"(q = Mul(x, x)  v = ReduceMean <axes = [-1]> (q)  e = Add(v, eps)  r = Sqrt(e)  y = Div(x, r))",
           R"(y = com.microsoft.SimplifiedLayerNormalization <axis = -1> (x, gain))",
       }) {
    const Found norm = only_norm(graph_text(nodes));
    EXPECT_EQ(norm.kind, Norm::Kind::kRms) << nodes;
    EXPECT_EQ(norm.bias, nullptr);
  }
}

TEST(Norm, AxesMayBeAnInput) {
  const Found norm = only_norm(graph_text(
      R"(q = Mul(x, x)  v = ReduceMean(q, last)  e = Add(v, eps)  r = Sqrt(e)  n = Div(x, r)  y = Mul(n, gain))", 18));
  EXPECT_EQ(norm.kind, Norm::Kind::kRms);
}

TEST(Norm, SkipLayerNormalizationHasTwoInputs) {
  const Found norm =
      only_norm(graph_text("y = com.microsoft.SkipLayerNormalization <epsilon = 0.1> (x, s, gain, bias)"));
  EXPECT_EQ(norm.skip->name(), "s");
  EXPECT_EQ(norm.gain->name(), "gain");
  EXPECT_EQ(norm.bias->name(), "bias");
}

TEST(Norm, NearMisses) {
  for (const char* nodes : {
           // over the wrong axis
           R"(m = ReduceMean <axes = [0]> (x)  d = Sub(x, m)  q = Pow(d, two)  v = ReduceMean <axes = [0]> (q)
              e = Add(v, eps)  r = Sqrt(e)  y = Div(d, r))",
           // cubed
           R"(q = Pow(x, half)  v = ReduceMean <axes = [-1]> (q)  e = Add(v, eps)  r = Sqrt(e)  y = Div(x, r))",
           // another value is divided
           R"(q = Mul(x, x)  v = ReduceMean <axes = [-1]> (q)  e = Add(v, eps)  r = Sqrt(e)  y = Div(s, r))",
           // dims not kept
           R"(q = Mul(x, x)  v = ReduceMean <axes = [-1], keepdims = 0> (q)  e = Add(v, eps)  r = Sqrt(e)
              u = Unsqueeze(r, last)  y = Div(x, u))",
           // epsilon is not a constant
           R"(q = Mul(x, x)  v = ReduceMean <axes = [-1]> (q)  e = Add(v, s)  r = Sqrt(e)  y = Div(x, r))",
           // no square root
           R"(q = Mul(x, x)  v = ReduceMean <axes = [-1]> (q)  e = Add(v, eps)  y = Div(x, e))",
       }) {
    EXPECT_TRUE(find_norms(model_from_text(graph_text(nodes))->graph()).empty()) << nodes;
  }
}

TEST(Norm, AnInnerValueReadElsewhereIsANearMiss) {
  const auto model = model_from_text(graph_text(kChain, 17, "float[2, 4] y, float[2, 1] v"));
  EXPECT_TRUE(find_norms(model->graph()).empty());
}

TEST(Norm, AMultiplierThatIsNotPerChannelIsNotItsGain) {
  const Found norm = only_norm(graph_text(
      R"(q = Mul(x, x)  v = ReduceMean <axes = [-1]> (q)  e = Add(v, eps)  r = Sqrt(e)  n = Div(x, r)  y = Mul(n, s))"));
  EXPECT_EQ(norm.gain, nullptr);
  EXPECT_EQ(norm.output->name(), "n");
}

}  // namespace
}  // namespace onnxfold::norm_test
