// Models of other exporters in the anchor's spelling: every weight where the anchor has it, bit for bit.
#include "passes/merge/respell.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "converter/pipeline.h"
#include "formats/onnx/schema.h"
#include "tests/passes/merge/small_transformer.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::respell_test {
namespace {

using test::model_from_text;
using ::testing::HasSubstr;

std::unique_ptr<Model> after(std::unique_ptr<Model> model, const std::vector<std::string>& passes) {
  Recipe recipe;
  for (const std::string& pass : passes) recipe.steps.push_back({pass, {}, {}});
  const auto ran = run_pipeline(*model, recipe);
  EXPECT_TRUE(ran.has_value()) << ran.error().message;
  EXPECT_TRUE(infer_shapes(*model).has_value());
  return model;
}

std::string refused(const Model& model, const Model& anchor) {
  const auto written = respelled(model, anchor);
  EXPECT_FALSE(written.has_value());
  return written ? "" : written.error().message;
}

class Respelled : public ::testing::TestWithParam<std::vector<std::string>> {};

TEST_P(Respelled, WeightsComeBackBitForBit) {
  const auto anchor = after(test::transformer(), {});
  const auto plain = test::disguised(*anchor, true);
  const auto model = after(plain->clone(), GetParam());
  const auto written = respelled(*model, *anchor);
  ASSERT_TRUE(written.has_value()) << written.error().message;
  EXPECT_EQ(test::largest_difference(**written, *plain), 0);
}

TEST_P(Respelled, TheOtherWayRoundItComputesTheSame) {
  const auto anchor = after(test::transformer(), GetParam());
  const auto model = after(test::disguised(*test::transformer(), true), {});
  const auto written = respelled(*model, *anchor);
  ASSERT_TRUE(written.has_value()) << written.error().message;
  EXPECT_EQ(test::difference(*model, **written, Precision::kFloat64, 1e-6), "");
}

INSTANTIATE_TEST_SUITE_P(Spellings, Respelled,
                         ::testing::Values(std::vector<std::string>{},  //
                                           std::vector<std::string>{"merge-parallel-linears"},
                                           std::vector<std::string>{"expand-activation", "expand-norm"},
                                           std::vector<std::string>{"merge-initializers", "merge-parallel-linears",
                                                                    "expand-activation"}));

const std::string kHead = "<ir_version: 8, opset_import: [\"\" : 20]> g (float[N, 4] x) => (float[N, 3] y) ";

std::unique_ptr<Model> layers(const std::string& weights, const std::string& nodes) {
  return after(model_from_text(kHead + "<" + weights + "> { " + nodes + " }"), {});
}

const std::string kPlain = "float[4, 6] w = {}, float[6] b = {}, float[6, 3] v = {}, float[3] c = {}";
const std::string kNodes = "h = MatMul(x, w) a = Add(h, b) r = Gelu(a) o = MatMul(r, v) y = Add(o, c)";

TEST(Respell, GemmWithTransposedWeights) {
  const auto anchor = layers(kPlain, kNodes);
  const auto model = layers("float[6, 4] p = {}, float[6] q = {}, float[3, 6] s = {}, float[3] t = {}",
                            "h = Gemm <transB = 1, alpha = 0.5> (x, p, q) r = Gelu(h) y = Gemm <transB = 1> (r, s, t)");
  const auto written = respelled(*model, *anchor);
  ASSERT_TRUE(written.has_value()) << written.error().message;
  EXPECT_EQ(test::difference(*model, **written, Precision::kFloat64, 1e-7), "");
}

TEST(Respell, AWeightThatTheAnchorSharesIsParted) {
  const std::string nodes = "a = MatMul(x, w) r = Relu(a) b = MatMul(r, %) y = MatMul(b, c)";
  std::string one = nodes, two = nodes;
  one.replace(one.find('%'), 1, "w");
  two.replace(two.find('%'), 1, "v");
  const auto anchor = layers("float[4, 4] w = {}, float[4, 3] c = {}", one);
  const auto model = layers("float[4, 4] w = {}, float[4, 4] v = {}, float[4, 3] c = {}", two);
  test::set_weight(*model, "v", test::random_matrix(4, 4, 3));
  const auto written = respelled(*model, *anchor);
  ASSERT_TRUE(written.has_value()) << written.error().message;
  EXPECT_EQ(test::difference(*model, **written, Precision::kFloat64, 1e-7), "");
}

TEST(Respell, SaysWhereAndWhyModelsDiffer) {
  const auto anchor = layers(kPlain, kNodes);
  EXPECT_THAT(
      refused(*layers(kPlain, "h = MatMul(x, w) a = Add(h, b) r = Tanh(a) o = MatMul(r, v) y = Add(o, c)"), *anchor),
      HasSubstr("differ"));
  EXPECT_THAT(
      refused(*layers("float[4, 5] w = {}, float[5] b = {}, float[5, 3] v = {}, float[3] c = {}", kNodes), *anchor),
      HasSubstr("Linear 5 -> 3"));
  EXPECT_THAT(refused(*layers(kPlain + ", float[6, 6] u = {}",
                              "h = MatMul(x, w) a = Add(h, b) r = Gelu(a) m = MatMul(r, u) "
                              "n = Gelu(m) o = MatMul(n, v) y = Add(o, c)"),
                      *anchor),
              HasSubstr("do not correspond"));
}

TEST(Respell, ABiasNeedsAPlace) {
  const auto anchor = layers("float[4, 6] w = {}, float[6, 3] v = {}", "h = MatMul(x, w) r = Gelu(h) y = MatMul(r, v)");
  const auto model = layers(kPlain, kNodes);
  EXPECT_THAT(refused(*model, *anchor), HasSubstr("bias"));
  test::set_weight(*model, "b", Matrix(1, 6));
  test::set_weight(*model, "c", Matrix(1, 3));
  EXPECT_TRUE(respelled(*model, *anchor).has_value());
}

// Attention with the weights of q, k and v inside, and with Linears of their own. 2 heads of 3 on a stream of 4.
std::unique_ptr<Model> attention(const std::string& weights, const std::string& nodes) {
  return after(model_from_text("<ir_version: 8, opset_import: [\"\" : 20, \"com.microsoft\" : 1]> g (float[N, 5, 4] x, "
                               "int32[N, 5] m) => (float[N, 5, 4] y) <" +
                               weights + ", float[6, 4] o = {}, float[4] ob = {}> { " + nodes +
                               " h = MatMul(c, o) y = Add(h, ob) }"),
               {});
}
const std::string kPackedWeights = "float[4, 18] w = {}, float[18] b = {}";
std::string packed_call(const std::string& more = "") {
  return "c = com.microsoft.Attention<num_heads = 2" + more + ">(x, w, b, m)";
}
const std::string kApartWeights =
    "float[4, 6] wq = {}, float[6] bq = {}, float[4, 6] wk = {}, float[6] bk = {}, float[4, 6] wv = {}, float[6] bv = "
    "{},"
    "int64[4] heads = {0, 0, 2, 3}, int64[3] flat = {0, 0, 6}, int64[2] at = {1, 2}, float scale = {0.57735027}, float "
    "low = {-10000}, float zero = {0}";
const std::string kApart = R"(
  q0 = MatMul(x, wq) q1 = Add(q0, bq) q2 = Reshape(q1, heads) q = Transpose<perm = [0, 2, 1, 3]>(q2)
  k0 = MatMul(x, wk) k1 = Add(k0, bk) k2 = Reshape(k1, heads) k = Transpose<perm = [0, 2, 3, 1]>(k2)
  v0 = MatMul(x, wv) v1 = Add(v0, bv) v2 = Reshape(v1, heads) v = Transpose<perm = [0, 2, 1, 3]>(v2)
  s = MatMul(q, k) t = Mul(s, scale) g = Cast<to = 9>(m) e = Unsqueeze(g, at) z = Where(e, zero, low) u = Add(t, z)
  p = Softmax<axis = -1>(u) r = MatMul(p, v) d = Transpose<perm = [0, 2, 1, 3]>(r) c = Reshape(d, flat))";

TEST(Respell, WeightsInsideOfAttention) {
  const auto packed = attention(kPackedWeights, packed_call());
  const auto apart = attention(kApartWeights, kApart);
  for (const auto& [model, anchor] : {std::pair(packed.get(), apart.get()), std::pair(apart.get(), packed.get())}) {
    const auto written = respelled(*model, *anchor);
    ASSERT_TRUE(written.has_value()) << written.error().message;
    EXPECT_EQ(test::difference(*model, **written, Precision::kFloat64, 1e-6), "");
  }
}

TEST(Respell, AttentionThatHidesItsBias) {
  const auto apart = attention(kApartWeights, kApart);
  const auto none = attention("float[4, 18] w = {}", "c = com.microsoft.Attention<num_heads = 2>(x, w, , m)");
  EXPECT_THAT(refused(*apart, *none), HasSubstr("only the other model has a bias"));
  const auto heads = attention(kPackedWeights, "c = com.microsoft.Attention<num_heads = 3>(x, w, b, m)");
  EXPECT_THAT(refused(*heads, *apart), HasSubstr("attention of 3 heads"));
}

// A bias that ONNX Runtime adds in the norm behind the stream, in every layer the same one.
TEST(Respell, ABiasBehindTheStreamThatLayersShare) {
  const auto text = [](const std::string& nodes) {
    return after(
        model_from_text("<ir_version: 8, opset_import: [\"\" : 20, \"com.microsoft\" : 1]> g (float[N, 3, 4] x) "
                        "=> (float[N, 3, 4] y) <float[4, 4] w = {}, float[4] b = {}, float[4] g = {}, float[4] "
                        "c = {}> { " +
                        nodes + " }"),
        {});
  };
  const std::string epsilon = "<epsilon = 0.00001>";
  const auto model = text("p = MatMul(x, w) h = com.microsoft.SkipLayerNormalization" + epsilon + "(p, x, g, c, b) " +
                          "q = MatMul(h, w) y = com.microsoft.SkipLayerNormalization" + epsilon + "(q, h, g, c, b)");
  const auto anchor = text(
      "p = MatMul(x, w) a = Add(p, b) s = Add(a, x) h = LayerNormalization(s, g, c) "
      "q = MatMul(h, w) e = Add(q, b) t = Add(e, h) y = LayerNormalization(t, g, c)");
  for (const auto& [one, two] : {std::pair(model.get(), anchor.get()), std::pair(anchor.get(), model.get())}) {
    const auto written = respelled(*one, *two);
    ASSERT_TRUE(written.has_value()) << written.error().message;
    EXPECT_EQ(test::difference(*one, **written, Precision::kFloat64, 1e-6), "");
  }
}

// A bias of scores that tells heads apart beside a mask of windows, whose shape is taken from what a Linear makes.
TEST(Respell, AMaskWhoseShapeIsComputedHoldsNoWeights) {
  const auto text = [](const std::string& shape) {
    return after(model_from_text(R"(<ir_version: 8, opset_import: ["" : 20]> g (float[1, 5, 4] x) => (float[1, 5, 4] y)
      <float[4, 6] wq = {}, float[4, 6] wk = {}, float[4, 6] wv = {}, float[6, 4] o = {}, float[1, 2, 5, 5] bias = {},
      float[1, 1, 5, 5] windows = {}, int64[4] heads = {0, 0, 2, 3}, int64[3] flat = {0, 0, 6}, float scale = {0.57735027}>
      { q1 = MatMul(x, wq) q2 = Reshape(q1, heads) q = Transpose<perm = [0, 2, 1, 3]>(q2)
      k1 = MatMul(x, wk) k2 = Reshape(k1, heads) k = Transpose<perm = [0, 2, 3, 1]>(k2)
      v1 = MatMul(x, wv) v2 = Reshape(v1, heads) v = Transpose<perm = [0, 2, 1, 3]>(v2)
      t = MatMul(q, k) u = Mul(t, scale) )" +
                                 shape + R"( w = Expand(windows, f) a = Add(w, bias) z = Add(u, a)
      p = Softmax<axis = -1>(z) r = MatMul(p, v) d = Transpose<perm = [0, 2, 1, 3]>(r) c = Reshape(d, flat)
      y = MatMul(c, o) })"),
                 {});
  };
  const auto model = text("f = Shape(u)"), anchor = text(
                                               "g = Shape(x) at = Constant<value_ints = [1, 2, 5, 5]>() "
                                               "f = Identity(at)");
  const auto written = respelled(*model, *anchor);
  ASSERT_TRUE(written.has_value()) << written.error().message;
  EXPECT_EQ(test::difference(*model, **written, Precision::kFloat64, 1e-6), "");
}

TEST(Respell, TheFirstRowsOfATableBySliceOrByPositions) {
  const auto text = [](const std::string& nodes) {
    return after(model_from_text("<ir_version: 8, opset_import: [\"\" : 20]> g (int64[N, 3] x) => (float[N, 3, 4] y) <"
                                 "float[9, 4] t = {}, float[5, 4] p = {}, int64[1] zero = {0}, int64[1] three = {3}, "
                                 "int64[3] at = {0, 1, 2}> { r = Gather(t, x) " +
                                 nodes + " y = Add(r, q) }"),
                 {});
  };
  const auto slice = text("q = Slice(p, zero, three, zero)"), gather = text("q = Gather(p, at)");
  for (const auto& [model, anchor] : {std::pair(slice.get(), gather.get()), std::pair(gather.get(), slice.get())}) {
    const auto written = respelled(*model, *anchor);
    ASSERT_TRUE(written.has_value()) << written.error().message;
    EXPECT_EQ(test::difference(*model, **written, Precision::kFloat64, 1e-7), "");
  }
  EXPECT_THAT(refused(*slice, *text("q = Gather(p, x)")), HasSubstr("operands"));
}

}  // namespace
}  // namespace onnxfold::respell_test
