#include "passes/quantize/sensitivity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "analysis/compare/damage.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::sensitivity_test {
namespace {

std::string numbers(std::int64_t count, double scale, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::string text;
  for (std::int64_t i = 0; i < count; ++i) text += (i == 0 ? "" : ", ") + std::to_string(scale * normal(random));
  return text;
}

// Two products side by side: what the first adds to the sum is ten times what the second adds.
std::unique_ptr<Model> two_branches() {
  return test::model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 32] x) => (float[N, 32] y) <float[32, 32] loud = {" +
      numbers(1024, 1, 1) + "}, float[32, 32] quiet = {" + numbers(1024, 0.1, 2) +
      "}> { a = MatMul(x, loud)\n b = MatMul(x, quiet)\n y = Add(a, b) }");
}

SensitivityOptions options() {
  SensitivityOptions made;
  for (const int bits : {2, 4, 8}) {
    BlockFormat format;
    format.bits = bits;
    made.formats.push_back(format);
  }
  return made;
}

Dataset data_for(const Model& model) { return *generate_dataset(model, 3); }

const WeightSensitivity& row(const Sensitivity& sensitivity, const std::string& name) {
  for (const WeightSensitivity& each : sensitivity.weights) {
    if (each.weight == name) return each;
  }
  ADD_FAILURE() << "no weight " << name;
  return sensitivity.weights.front();
}

TEST(Sensitivity, CountsAtTheOutputsAndNotAtTheWeight) {
  const auto model = two_branches();
  const Dataset data = data_for(*model);
  const auto measured = measure_sensitivity(*model, &data, options());
  ASSERT_TRUE(measured) << measured.error().message;
  EXPECT_EQ(measured->kind, "squared error");
  ASSERT_EQ(measured->weights.size(), 2U);
  const auto &loud = row(*measured, "loud").formats, &quiet = row(*measured, "quiet").formats;
  EXPECT_NEAR(loud[1].weight_error / quiet[1].weight_error, 1, 0.5);
  EXPECT_NEAR(loud[1].damage / quiet[1].damage, 100, 50);
  EXPECT_TRUE(loud[0].measured && loud[1].measured && !loud[2].measured);
  EXPECT_GT(loud[0].damage, loud[1].damage);
  EXPECT_GT(loud[1].damage, loud[2].damage);
  EXPECT_EQ(loud[1].bytes, 1024 / 2 + 32 * 4);
}

// The measured number is what the whole model with that one weight rounded shows.
TEST(Sensitivity, AgreesWithQuantizingOneWeight) {
  const auto model = two_branches();
  const Dataset data = data_for(*model);
  const auto measured = measure_sensitivity(*model, &data, options());
  ASSERT_TRUE(measured);
  const auto meter = DamageMeter::create(*model, data, DamageMeter::Kind::kKl);
  ASSERT_TRUE(meter);
  for (const char* name : {"loud", "quiet"}) {
    const auto changed = model->clone();
    ASSERT_TRUE(test::run_pass("rtn-search", *changed, {{"bits", "4"}, {"include", name}, {"accuracy-level", "0"}}));
    const auto damage = meter->measure(*changed);
    ASSERT_TRUE(damage);
    EXPECT_NEAR(row(*measured, name).formats[1].damage / (damage->value * damage->value), 1, 1e-3);
  }
}

TEST(Sensitivity, AWeightOfManyReadersIsRoundedForAll) {
  const std::string tied =
      "<ir_version: 8, opset_import: [\"\" : 17]> g (int64[N, 3] ids) => (float[N, 3, 64] y) "
      "<float[64, 32] table = {" +
      numbers(2048, 1, 4) + "}> { h = Gather(table, ids)\n t = Transpose<perm = [1, 0]>(table)\n y = MatMul(h, t) }";
  const auto model = test::model_from_text(tied);
  const Dataset data = data_for(*model);
  const auto measured = measure_sensitivity(*model, &data, options());
  ASSERT_TRUE(measured) << measured.error().message;
  ASSERT_EQ(measured->weights.size(), 1U);
  const FormatDamage& four = measured->weights[0].formats[1];
  EXPECT_EQ(four.bytes, 2048 / 2 + 64 * 4);  // stored once
  const auto changed = model->clone();
  ASSERT_TRUE(test::run_pass("rtn-search", *changed, {{"bits", "4"}, {"accuracy-level", "0"}}));
  const auto meter = DamageMeter::create(*model, data, DamageMeter::Kind::kKl);
  const auto damage = meter->measure(*changed);
  ASSERT_TRUE(damage);
  EXPECT_NEAR(four.damage / (damage->value * damage->value), 1, 1e-3);
}

TEST(Sensitivity, WithoutDataWeightErrorsStandForDamage) {
  const auto model = two_branches();
  const auto measured = measure_sensitivity(*model, nullptr, options());
  ASSERT_TRUE(measured);
  EXPECT_EQ(measured->kind, "weights");
  for (const WeightSensitivity& each : measured->weights) {
    for (const FormatDamage& format : each.formats) EXPECT_EQ(format.damage, format.weight_error);
  }
}

TEST(Sensitivity, FormatsThatOnlySomeReadersTakeAreNotOffered) {
  // Rows of 33 codes fill whole bytes at 8 bits only.
  const std::string text =
      "<ir_version: 8, opset_import: [\"\" : 17]> g (int64[N] ids) => (float[N, 33] y) "
      "<float[64, 33] table = {" +
      numbers(64 * 33, 1, 5) + "}> { y = Gather(table, ids) }";
  const auto model = test::model_from_text(text);
  const auto measured = measure_sensitivity(*model, nullptr, options());
  ASSERT_TRUE(measured);
  ASSERT_EQ(measured->weights.size(), 1U);
  ASSERT_EQ(measured->weights[0].formats.size(), 1U);
  EXPECT_EQ(measured->weights[0].formats[0].format.bits, 8);
}

TEST(Sensitivity, WeightsThatAreNotFiniteAreNamed) {
  const auto model = test::model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 32] x) => (float[N, 32] y) <float[32, 32] w = {" +
      numbers(1024, 1, 1) + "}> { y = MatMul(x, w) }");
  std::vector<float> values(1024, 1.0F);
  values[7] = std::nanf("");
  Value* bad = model->graph().add_initializer("bad", Tensor::of<float>({32, 32}, values));
  model->graph().replace_all_uses(*model->graph().find("w"), *bad);
  const auto measured = measure_sensitivity(*model, nullptr, options());
  ASSERT_FALSE(measured);
  EXPECT_NE(measured.error().message.find("'bad'"), std::string::npos);
}

}  // namespace
}  // namespace onnxfold::sensitivity_test
