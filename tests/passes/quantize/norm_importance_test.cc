#include "passes/quantize/norm_importance.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/rewrite_test.h"

namespace onnxfold::norm_importance_test {
namespace {

// Gains 1, 2, 1, 2, ... and biases 0, 1, 0, 1, ...: second moments 1 and 5.
std::string model_text(const std::string& nodes, const std::string& more = "") {
  std::string gains, biases, weight;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 32; ++i) {
    gains += (i == 0 ? "" : ", ") + std::string(i % 2 == 0 ? "1" : "2");
    biases += (i == 0 ? "" : ", ") + std::string(i % 2 == 0 ? "0" : "1");
  }
  for (int i = 0; i < 1024; ++i) weight += (i == 0 ? "" : ", ") + std::to_string(normal(random));
  return "<ir_version: 10, opset_import: [\"\" : 17]> g (float[4, 8, 32] x, int64[4] ids) => (float[4, 8, 32] y) "
         "<float[32] gain = {" +
         gains + "}, float[32] bias = {" + biases + "}, float[32, 32] w = {" + weight + "}" + more + "> { " + nodes +
         " }";
}

ColumnImportance importance(const std::string& text) {
  const auto model = test::model_from_text(text);
  PassContext context(*model, "");
  const auto targets = find_weight_targets(model->graph(), WeightOptions(), context);
  EXPECT_FALSE(targets.empty());
  const auto found = NormImportance::find(model->graph(), targets);
  EXPECT_TRUE(found) << found.error().message;
  return found->of(targets.front());
}

const std::string kNorm = "n = LayerNormalization<axis = -1>(x, gain, bias)\n";

TEST(NormImportance, IsGainAndBiasSquared) {
  const auto found = importance(model_text(kNorm + "y = MatMul(n, w)"));
  ASSERT_TRUE(found);
  ASSERT_EQ(found->size(), 32U);
  EXPECT_NEAR((*found)[0], 0.99 / 3 + 0.01, 1e-5);
  EXPECT_NEAR((*found)[1], 0.99 * 5 / 3 + 0.01, 1e-5);
}

// As exporters write GPT-2: rows are flattened for Gemm.
TEST(NormImportance, BehindReshapeThatKeepsChannels) {
  const std::string shape = ", int64[2] flat = {-1, 32}, int64[3] full = {4, 8, 32}";
  const auto found =
      importance(model_text(kNorm + "r = Reshape(n, flat)\n p = Gemm<transB = 1>(r, w)\n y = Reshape(p, full)", shape));
  ASSERT_TRUE(found);
  EXPECT_NEAR((*found)[1] / (*found)[0], 4.85, 0.1);
}

TEST(NormImportance, NothingIsKnownElsewhere) {
  EXPECT_FALSE(importance(model_text("y = MatMul(x, w)")));
  EXPECT_FALSE(importance(model_text(kNorm + "r = Relu(n)\n y = MatMul(r, w)")));
  const std::string shape = ", int64[2] mixed = {16, 64}, int64[3] full = {4, 8, 32}";
  EXPECT_FALSE(importance(
      model_text(kNorm + "m = Reshape(n, mixed)\n h = Transpose(m)\n r = Reshape(h, full)\n y = MatMul(r, w)", shape)));
}

TEST(NormImportance, EqualGainsSayNothing) {
  EXPECT_FALSE(importance(model_text(
      "s = Mul(gain, gain)\n n = LayerNormalization<axis = -1>(x, one)\n y = MatMul(n, w)",
      ", float[32] one = {" + std::string("1") +
          [] {
            std::string rest;
            for (int i = 1; i < 32; ++i) rest += ", 1";
            return rest;
          }() +
          "}")));
}

// A table that is also the head: half of its readers say that all columns count the same.
TEST(NormImportance, ReadersShare) {
  const auto found =
      importance(model_text("e = Gather(w, ids)\n s = Add(x, e)\n n = LayerNormalization<axis = -1>(s, gain, bias)\n"
                            "t = Transpose<perm = [1, 0]>(w)\n y = MatMul(n, t)"));
  ASSERT_TRUE(found);
  EXPECT_NEAR((*found)[1], (1 + 0.99 * 5 / 3 + 0.01) / 2, 0.01);
}

double weighted_error(const std::string& text, const test::OptionMap& options) {
  const auto model = test::model_from_text(text);
  const auto before = *to_doubles(*model->graph().find("w")->constant());
  EXPECT_TRUE(*test::run_pass("rtn-search", *model, options));
  EXPECT_TRUE(*test::run_pass("dequantize", *model, {}));
  for (const Node* node : model->graph().nodes()) {
    if (!node->is("MatMul")) continue;
    const auto after = *to_doubles(*node->input(1)->constant());
    double error = 0;
    for (std::size_t i = 0; i < after.size(); ++i) {
      error += (i / 32 % 2 == 0 ? 1 : 5) * (after[i] - before[i]) * (after[i] - before[i]);
    }
    return error;
  }
  ADD_FAILURE() << "no product";
  return 0;
}

TEST(NormImportance, RtnSearchCountsIt) {
  const std::string text = model_text(kNorm + "y = MatMul(n, w)");
  for (const char* bits : {"2", "3", "4"}) {
    for (const char* symmetric : {"true", "false"}) {
      const test::OptionMap options = {{"bits", bits}, {"symmetric", symmetric}};
      test::OptionMap without = options;
      without["norms"] = "false";
      EXPECT_LT(weighted_error(text, options), 0.99 * weighted_error(text, without)) << bits << symmetric;
    }
  }
}

}  // namespace
}  // namespace onnxfold::norm_importance_test
