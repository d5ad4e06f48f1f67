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

}  // namespace
}  // namespace onnxfold::respell_test
