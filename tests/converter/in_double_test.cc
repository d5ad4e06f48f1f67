#include "converter/in_double.h"

#include <gtest/gtest.h>

#include <cmath>

#include "converter/pipeline.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::in_double_test {
namespace {

using test::model_from_text;

const char* const kConvs = R"(<ir_version: 8, opset_import: ["": 17]>
  g (float[2, 3, 5, 5] x) => (float[2, 4, 3, 3] y)
  <float[4, 3, 3, 3] w = {}, float[4, 1, 1] s = {}, float[4, 1, 1] b = {}> {
    c = Conv(x, w) m = Mul(c, s) y = Add(m, b) })";

Recipe folding() {
  return {"test", "", {{"fold-linear-scale", {}, {}}, {"fold-linear-bias", {}, {}}, {"remove-dead-nodes", {}, {}}}};
}

TEST(InDouble, MakesEveryFloatADouble) {
  const auto model = model_from_text(R"(<ir_version: 9, opset_import: ["": 19]>
    g (float[2] x, int64[2] n) => (float[2] y) <float[2] w = {1.5, 2.5}> {
      k = Constant<value_float = 0.5>() h = Cast<to = 10>(x) f = Cast<to = 1>(h) c = Cast<to = 6>(n)
      z = ConstantOfShape(n) a = Mul(f, w) y = Add(a, k) })");
  const auto twin = in_double(*model);
  ASSERT_TRUE(twin) << twin.error().message;
  for (const Value* value : (*twin)->graph().values()) {
    EXPECT_NE(value->dtype(), DType::kFloat32) << value->name();
    EXPECT_NE(value->dtype(), DType::kFloat16) << value->name();
  }
  EXPECT_EQ((*twin)->graph().find("c")->dtype(), DType::kInt32);
  EXPECT_EQ(*to_doubles(*(*twin)->graph().find("w")->constant()), (std::vector<double>{1.5, 2.5}));
  EXPECT_EQ(model->graph().find("w")->dtype(), DType::kFloat32);
}

TEST(InDouble, FoldedWeightsAgreeToTwelveDigits) {
  const auto before = model_from_text(kConvs);
  const auto after = before->clone();
  ASSERT_TRUE(run_pipeline(*after, folding()));
  const Dataset data = *generate_dataset(*before, 0);
  const auto error = error_in_double(*before, *after, folding(), data, {});
  ASSERT_TRUE(error) << error.error().message;
  ASSERT_TRUE(*error);
  EXPECT_LT(**error, 1e-13);
}

TEST(InDouble, SaysNothingWhenTheTwinComesOutDifferently) {
  const auto before = model_from_text(kConvs);
  const Dataset data = *generate_dataset(*before, 0);
  const auto error = error_in_double(*before, *before, folding(), data, {});
  ASSERT_TRUE(error) << error.error().message;
  EXPECT_FALSE(*error);
}

double error_of(const Model& before, const Recipe& recipe) {
  const auto after = before.clone();
  EXPECT_TRUE(run_pipeline(*after, recipe));
  const Dataset data = *generate_dataset(before, 0);
  const auto error = error_in_double(before, *after, recipe, data, {});
  EXPECT_TRUE(error && *error);
  return error && *error ? **error : 1;
}

const char* const kBlocks = R"(<ir_version: 8, opset_import: ["": 17]>
  g (float[2, 5, 8] x) => (float[2, 5, 8] y)
  <float[8] one = {1, 1, 1, 1, 1, 1, 1, 1}, float[8, 16] up0 = {}, float[16, 8] down0 = {}, float[8, 16] up1 = {},
   float[16, 8] down1 = {}, float[8, 16] up2 = {}, float[16, 8] down2 = {}> {
    n0 = LayerNormalization(x, one) u0 = MatMul(n0, up0) h0 = Relu(u0) f0 = MatMul(h0, down0) s0 = Add(x, f0)
    n1 = LayerNormalization(s0, one) u1 = MatMul(n1, up1) h1 = Relu(u1) f1 = MatMul(h1, down1) s1 = Add(s0, f1)
    n2 = LayerNormalization(s1, one) u2 = MatMul(n2, up2) h2 = Relu(u2) f2 = MatMul(h2, down2) s2 = Add(s1, f2)
    y = LayerNormalization(s2, one) })";

void put(Model& model, const char* name, const Dims& dims, const std::vector<double>& numbers) {
  Value* made = model.graph().add_initializer("new", *from_doubles(DType::kFloat32, dims, numbers));
  model.graph().replace_all_uses(*model.graph().find(name), *made);
}

TEST(InDouble, RemovalOfABlockThatAddsNothingChangesNothing) {
  const auto model = model_from_text(kBlocks);
  put(*model, "down1", {16, 8}, std::vector<double>(128, 0));
  EXPECT_LT(error_of(*model, {"test", "", {{"drop-blocks", {{"blocks", "1"}}, {}}}}), 1e-12);
}

TEST(InDouble, NoRemovalAndFullRankAreTheOriginal) {
  const auto model = model_from_text(kBlocks);
  const Recipe recipe = {"test",
                         "",
                         {{"drop-blocks", {{"count", "0"}}, {}},
                          {"low-rank", {{"ratio", "1"}, {"min-elements", "0"}}, {}},
                          {"prune-neurons", {{"ratio", "0"}}, {}},
                          {"prune-heads", {{"ratio", "0"}}, {}},
                          {"ensemble-scale", {}, {}}}};
  EXPECT_LT(error_of(*model, recipe), 1e-12);
}

// Rank 2 is all that a weight of rank 2 has: two thin factors of it are the weight.
TEST(InDouble, FactorsOfFullRankAgreeToTwelveDigits) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[2, 5, 8] x) => (float[2, 5, 8] y) <float[8, 8] w = {}> { y = MatMul(x, w) })");
  std::vector<double> numbers(64);
  for (std::size_t i = 0; i < 64; ++i) {
    const auto row = static_cast<double>(i / 8), col = static_cast<double>(i % 8);
    numbers[i] = (row + 1) * (col - 3) + std::fmod(row, 2) * std::fmod(col, 3);
  }
  put(*model, "w", {8, 8}, numbers);
  const auto after = model->clone();
  const Recipe recipe = {"test", "", {{"low-rank", {{"ratio", "0.5"}, {"min-elements", "0"}}, {}}}};
  ASSERT_TRUE(run_pipeline(*after, recipe));
  EXPECT_EQ(after->graph().nodes_of("MatMul").size(), 2U);
  EXPECT_LT(error_of(*model, recipe), 1e-12);
}

}  // namespace
}  // namespace onnxfold::in_double_test
