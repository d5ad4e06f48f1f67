#include "analysis/structure/correspondence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::correspondence_test {
namespace {

using test::model_from_text;
using ::testing::HasSubstr;

std::unique_ptr<Model> graph(const std::string& weights, const std::string& nodes,
                             const std::string& interface = "(float[N, 4] x) => (float[N, 4] y)") {
  return model_from_text("<ir_version: 8, opset_import: [\"\" : 17]> g " + interface + " <" + weights + "> { " + nodes +
                         " }");
}

const std::string kWeights = "float[4, 8] w1 = {}, float[8] b1 = {}, float[8, 4] w2 = {}";
const std::string kNodes = "h = MatMul(x, w1) a = Add(h, b1) r = Relu(a) o = MatMul(r, w2) y = Add(o, x)";

std::string message(const Model& a, const Model& b) {
  const auto map = correspond(a.graph(), b.graph());
  EXPECT_FALSE(map.has_value());
  return map ? "" : map.error().message;
}

TEST(Correspondence, NamesDoNotMatterAndOperandsMaySwap) {
  const auto a = graph(kWeights, kNodes);
  const auto b = graph("float[8, 4] p = {}, float[8] q = {}, float[4, 8] s = {}",
                       "u = MatMul(in, s) v = Add(q, u) w = Relu(v) z = MatMul(w, p) out = Add(in, z)",
                       "(float[N, 4] in) => (float[N, 4] out)");
  const auto map = correspond(a->graph(), b->graph());
  ASSERT_TRUE(map.has_value()) << map.error().message;
  ASSERT_EQ(map->constants.size(), 3U);
  EXPECT_EQ(map->constants[0].first->name(), "w1");
  EXPECT_EQ(map->constants[0].second->name(), "s");
  EXPECT_EQ(map->constants[1].second->name(), "q");
  EXPECT_EQ(map->first_of.at(b->graph().find("w"))->name(), "r");
}

TEST(Correspondence, WidthsMayDiffer) {
  const auto a = graph(kWeights, kNodes);
  const auto b = graph("float[4, 6] w1 = {}, float[6] b1 = {}, float[6, 4] w2 = {}", kNodes);
  EXPECT_TRUE(correspond(a->graph(), b->graph()).has_value());
}

TEST(Correspondence, SaysWhatDiffers) {
  const auto a = graph(kWeights, kNodes);
  EXPECT_THAT(message(*a, *graph(kWeights,
                                 "h = MatMul(x, w1) a = Add(h, b1) r = Tanh(a) o = MatMul(r, w2) "
                                 "y = Add(o, x)")),
              HasSubstr("Tanh"));
  EXPECT_THAT(message(*a, *graph(kWeights, "h = MatMul(x, w1) r = Relu(h) o = MatMul(r, w2) y = Add(o, x)")),
              HasSubstr("do not correspond"));
  EXPECT_THAT(message(*a, *graph("float[4, 8] w1 = {}, float[1, 8] b1 = {}, float[8, 4] w2 = {}", kNodes)),
              HasSubstr("ranks differ"));
}

TEST(Correspondence, AttributesByTheirDefaults) {
  const std::string gemm = "float[4, 4] w = {}, float[4] b = {}";
  const auto a = graph(gemm, "y = Gemm <transB = 1> (x, w, b)");
  const auto b = graph(gemm, "y = Gemm <transB = 1, transA = 0, alpha = 1.0> (x, w, b)");
  const auto c = graph(gemm, "y = Gemm <transB = 0> (x, w, b)");
  EXPECT_TRUE(correspond(a->graph(), b->graph()).has_value());
  EXPECT_THAT(message(*a, *c), HasSubstr("transB"));
}

TEST(Correspondence, OneModelSharesAWeightThatTheOtherHasTwice) {
  const std::string nodes = "h = MatMul(x, w) y = MatMul(h, w)";
  const std::string apart = "h = MatMul(x, w) y = MatMul(h, v)";
  const auto shared = graph("float[4, 4] w = {}", nodes);
  const auto twice = graph("float[4, 4] w = {}, float[4, 4] v = {}", apart);
  EXPECT_TRUE(correspond(shared->graph(), twice->graph()).has_value());
  EXPECT_THAT(message(*twice, *shared), HasSubstr("used where"));
}

TEST(Correspondence, ReplacedConstantKeepsItsName) {
  const auto a = graph(kWeights, kNodes);
  Value* fresh = replace_constant(*a->graph().find("b1"), Tensor::of<float>({8}, std::vector<float>(8, 2.0F)));
  ASSERT_NE(fresh, nullptr);
  EXPECT_EQ(fresh->name(), "b1");
  EXPECT_EQ(a->graph().find("b1"), fresh);
  EXPECT_EQ(fresh->uses().size(), 1U);
}

}  // namespace
}  // namespace onnxfold::correspondence_test
