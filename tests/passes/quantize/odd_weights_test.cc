// Weights and numbers that quantizers meet rarely: said, kept or refused, never wrong without a word.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "ir/match.h"
#include "ir/verify.h"
#include "passes/quantize/blockwise.h"
#include "passes/quantize/channel_int8.h"
#include "tests/support/calibrated_run.h"

namespace onnxfold::odd_weights_test {
namespace {

using test::first_output;
using test::run_calibrated;

constexpr const char* kHead = "<ir_version: 8, opset_import: [\"\" : 17]> g ";
const test::OptionMap kAll = {{"min-elements", "0"}};

Dataset rows(std::int64_t count, std::int64_t width) {
  std::vector<double> numbers(static_cast<std::size_t>(count * width));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = std::sin(static_cast<double>(i) * 0.7) + 0.3;
  return test::dataset_of("x", {count, width}, numbers);
}

// Does every kind of pass give this reason, or none when `part` is empty?
void expect_said(const std::string& text, const std::string& part) {
  const Dataset data = rows(4, 16);
  for (const char* pass : {"rtn", "dynamic-int8", "qdq-int8"}) {
    const auto run = run_calibrated(pass, text, &data, kAll);
    ASSERT_TRUE(run.changed) << run.changed.error().message;
    if (part.empty()) {
      EXPECT_TRUE(run.remarks.empty() || run.remarks[0].kind == Remark::Kind::kApplied) << run.remarks[0].reason;
    } else {
      EXPECT_TRUE(run.says(part)) << pass << ": " << text;
    }
  }
}

std::string product(const std::string& weights, const std::string& before) {
  return std::string(kHead) + "(float[4, 16] x) => (float[4, 8] y) <" + weights + "> { " + before +
         " y = MatMul(x, w) }";
}

TEST(OddWeights, WhatIsComputedOfConstantsIsNamed) {
  expect_said(product("float[16, 8] v = {}, float[8] s = {}", "w = Mul(v, s)"), "computed of constants, by Mul");
  expect_said(product("float[16, 8] v = {}, float[8] s = {}", "u = Mul(v, s) w = Identity(u)"), "by Mul");
  expect_said(product("int32[16, 8] v = {}", "w = Cast<to = 1>(v)"), "int32");
  expect_said(product("float[16, 8] v = {}, float s = {0.01}, int8 z = {0}",
                      "q = QuantizeLinear(v, s, z) w = DequantizeLinear(q, s, z)"),
              "rounded in the model");
  expect_said(std::string(kHead) +
                  "(float[4, 16] x, float[16, 8] w) => (float[4, 8] y) <float[16, 8] w = {}> { y = MatMul(x, w) }",
              "callers may replace");
}

TEST(OddWeights, ProductsOfCodesAreQuantizedAlready) {
  expect_said(
      std::string(kHead) + R"((uint8[4, 16] x) => (int32[4, 8] y) <int8[16, 8] w = {}> { y = MatMulInteger(x, w) })",
      "already quantized to int8");
  expect_said(std::string(kHead) + R"((uint8[4, 16] x, int8[16, 8] w) => (int32[4, 8] y) { y = MatMulInteger(x, w) })",
              "");
}

TEST(OddWeights, WhatIsNoConstantIsNot) {
  expect_said(product("float[16, 8] v = {}", "w = Identity(v)"), "");
  expect_said(product("float[16, 8] v = {}", "s = ReduceMean<axes = [0, 1], keepdims = 0>(x) w = Mul(v, s)"),
              "Mul has no");  // the constant that Mul reads, not the product
  expect_said(std::string(kHead) + "(float[4, 16] x, float[16, 8] w) => (float[4, 8] y) { y = MatMul(x, w) }", "");
}

TEST(OddWeights, ProductsOfFunctionsAreNamed) {
  expect_said(R"(<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[4, 16] x) => (float[4, 16] y) { y = own.Layer(x) }
    <opset_import: ["" : 17], domain: "own"> Layer (x) => (y) {
      s = Constant<value_ints = [16, 16]>() w = ConstantOfShape(s) y = MatMul(x, w) })",
              "stand in a function");
}

TEST(OddWeights, StaticInt8NamesWhatStandsInBodies) {
  const auto model = test::model_from_text(std::string(kHead) + R"((float[4, 16] x, bool c) => (float[4, 8] y)
    <float[16, 8] w = {}, float[16, 8] v = {}> {
    y = If (c) <then_branch = t () => (float[4, 8] a) { a = MatMul(x, w) },
                else_branch = e () => (float[4, 8] b) { b = MatMul(x, v) }> })");
  Dataset data = rows(4, 16);
  PassContext context(*model, "qdq-int8");
  context.calibration = &data;
  const PassInfo& info = *find_pass("qdq-int8");
  const auto pass = info.make(*PassOptions::parse(info.name, info.options, kAll));
  for (Graph* graph : model->graphs()) {
    const auto changed = pass->run(*graph, context);
    EXPECT_TRUE(changed && !*changed);
  }
  const std::vector<Remark> remarks = context.take_remarks();
  ASSERT_EQ(remarks.size(), 2U);
  for (const Remark& remark : remarks) EXPECT_NE(remark.reason.find("stands in a body"), std::string::npos);
}

// A channel that is nearly dead has the scale of its bias: codes of the bias fit int32.
TEST(OddWeights, BiasesOfDeadChannelsStay) {
  const Dataset data = rows(8, 16);
  std::string numbers;
  for (int i = 0; i < 32; ++i) numbers += (i == 0 ? "" : ", ") + std::string(i % 2 == 0 ? "0.5" : "1e-20");
  const std::string text = std::string(kHead) + "(float[8, 16] x) => (float[8, 2] y) <float[16, 2] w = {" + numbers +
                           "}, float[2] b = {0.25, 0.75}> { y = Gemm(x, w, b) }";
  const auto run = run_calibrated("qdq-int8", text, &data, kAll);
  ASSERT_TRUE(run.did());
  const auto wanted = first_output(*test::model_from_text(text), data), got = first_output(*run.model, data);
  ASSERT_EQ(wanted.size(), got.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], wanted[i], i % 2 == 0 ? 0.05 : 1e-6);
}

TEST(OddWeights, AWeightWithTwoBiasesIsStoredForEach) {
  const Dataset data = rows(8, 16);
  const std::string small = "float[16, 16] w = {" + [] {
    std::string all;
    for (int i = 0; i < 256; ++i)
      all += fmt::format("{}{}", i == 0 ? "" : ", ", i % 16 < 8 ? (i % 7 - 3) * 0.1 : 1e-18);
    return all;
  }() + "}";
  const std::string text = std::string(kHead) + "(float[8, 16] x) => (float[8, 16] y) <" + small +
                           ", float[16] b = {}, float[16] c = {}> { h = Gemm(x, w, b) y = Gemm(h, w, c) }";
  const auto run = run_calibrated("qdq-int8", text, &data, kAll);
  ASSERT_TRUE(run.did());
  EXPECT_TRUE(verify(*run.model));
  const auto wanted = first_output(*test::model_from_text(text), data);
  EXPECT_LT(test::relative_distance(first_output(*run.model, data), wanted), 0.05);
}

TEST(OddWeights, ScalesAreThoseOfTheWeightWhereTheBiasFits) {
  const Tensor weight = Tensor::of<float>({2, 2}, {1, -2, 4, 0.5});
  const auto least = least_scales(Tensor::of<float>({2}, {100, -1e12F}), 0.01F);
  ASSERT_TRUE(least);
  const auto plain = quantize_channels(weight, 1), wide = quantize_channels(weight, 1, 127, *least);
  EXPECT_FALSE(plain->widened);
  EXPECT_TRUE(wide->widened);
  EXPECT_EQ(wide->scales[0], plain->scales[0]);
  EXPECT_NEAR(1e12 / 0.01 / static_cast<double>(wide->scales[1]), 0x1p30, 1e3);
  EXPECT_FALSE(least_scales(Tensor::of<float>({1}, {NAN}), 0.01F));
}

std::vector<float> waves(std::size_t count, float unit) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = unit * std::sin(static_cast<float>(i * i % 101));
  return values;
}

Result<BlockCodes> codes_of(const std::vector<float>& values, const BlockFormat& format, BlockRule rule) {
  const auto columns = static_cast<std::int64_t>(values.size()) / 4;
  return quantize_blocks(Tensor::of<float>({4, columns}, values), {4, columns, 1}, format, DType::kFloat32, rule);
}

// Squares of these are no float32 any more: the search finds what it finds for the same weights near 1.
TEST(OddWeights, TheSearchSeesNoUnit) {
  for (const bool symmetric : {true, false}) {
    const BlockFormat format{4, 32, symmetric};
    const auto near = codes_of(waves(256, 1), format, choose_rtn_search);
    for (const float unit : {0x1p-100F, 0x1p-60F, 0x1p60F, 0x1p90F}) {
      const auto far = codes_of(waves(256, unit), format, choose_rtn_search);
      ASSERT_TRUE(near && far);
      EXPECT_EQ(near->codes, far->codes) << unit;
      EXPECT_EQ(near->zeros, far->zeros);
      for (std::size_t i = 0; i < near->scales.size(); ++i) EXPECT_EQ(near->scales[i] * unit, far->scales[i]);
    }
  }
}

TEST(OddWeights, ScalesThatFloat16CannotHoldAreRefused) {
  BlockFormat format{4, 32, true};
  format.scales = ScaleForm::kFloat16;
  for (const auto& [unit, fine] : {std::pair(1e9F, false), {1e-10F, false}, {1e4F, true}, {1e-4F, true}}) {
    LazyBlocks blocks({4, 64, 1}, format, 1,
                      [&, unit = unit] { return codes_of(waves(256, unit), format, choose_rtn); });
    const auto taken = blocks.take(0);
    EXPECT_EQ(static_cast<bool>(taken), fine) << unit;
    EXPECT_TRUE(taken || taken.error().message.find("scales=float32") != std::string::npos);
  }
  std::vector<float> dead = waves(256, 1);  // one row that vanishes is no reason
  for (std::size_t i = 0; i < 64; ++i) dead[i] = 1e-12F;
  EXPECT_TRUE(codes_of(dead, format, choose_rtn));
  EXPECT_TRUE(codes_of(std::vector<float>(256, 0.0F), format, choose_rtn));
}

TEST(OddWeights, GptqKeepsWhatItsSweepLoses) {
  const Dataset data = rows(2, 16);
  std::string numbers;
  for (int i = 0; i < 128; ++i) numbers += fmt::format("{}{}", i == 0 ? "" : ", ", (i % 9 - 4) * 1e-30);
  const std::string text = std::string(kHead) + "(float[2, 16] x) => (float[2, 8] y) <float[16, 8] w = {" + numbers +
                           "}> { y = MatMul(x, w) }";
  const auto run = run_calibrated("gptq", text, &data, {{"min-elements", "0"}, {"block", "16"}});
  ASSERT_TRUE(run.did()) << run.changed.error().message;
  EXPECT_TRUE(run.says("lost all numbers"));
}

std::vector<Remark> in_16_bits(const std::string& weights, const test::OptionMap& options, bool changes) {
  auto model = test::model_from_text(product(weights, ""));
  std::vector<Remark> remarks;
  const auto changed = test::run_pass("convert-float16", *model, options, &remarks);
  EXPECT_TRUE(changed && *changed == changes) << weights;
  return remarks;
}

bool says(const std::vector<Remark>& remarks, const std::string& part) {
  return std::any_of(remarks.begin(), remarks.end(),
                     [&](const Remark& remark) { return remark.reason.find(part) != std::string::npos; });
}

std::string filled(const std::string& first, const std::string& other) {
  std::string text = "float[16, 8] w = {" + first;
  for (int i = 1; i < 128; ++i) text += ", " + other;
  return text + "}";
}

TEST(OddWeights, NumbersThat16BitsCannotTellApartStay) {
  const test::OptionMap alone = {{"weights-only", "true"}, {"min-elements", "0"}},
                        brain = {{"to", "bfloat16"}, {"min-elements", "0"}};
  EXPECT_TRUE(says(in_16_bits(filled("2049", "1"), {}, false), "1 whole numbers would change"));
  EXPECT_TRUE(says(in_16_bits(filled("257", "1"), brain, false), "1 whole numbers would change"));
  in_16_bits(filled("257", "1"), alone, true);     // float16 has 11 bits
  in_16_bits(filled("2049", "0.5"), alone, true);  // no whole numbers
  in_16_bits(filled("4096", "1"), {}, true);       // exact
  EXPECT_TRUE(says(in_16_bits(filled("1e-6", "2e-6"), {}, false), "all numbers are below"));
  EXPECT_TRUE(says(in_16_bits(filled("1e-6", "2e-6"), alone, false), "all numbers are below"));
  in_16_bits(filled("1", "2e-6"), alone, true);
  in_16_bits(filled("1e-6", "2e-6"), brain, true);
}

TEST(OddWeights, InfinitiesInWeightsAreNoMasks) {
  EXPECT_TRUE(says(in_16_bits(filled("1e35", "0.5"), {}, false), "1 numbers beyond 65504"));
  auto added = test::model_from_text(std::string(kHead) + "(float[4, 16] x) => (float[4, 16] y) <float[16] m = {" +
                                     "-1e35, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}> { y = Add(x, m) }");
  std::vector<Remark> remarks;
  ASSERT_TRUE(test::run_pass("convert-float16", *added, {}, &remarks));
  EXPECT_TRUE(says(remarks, "1 numbers clamped to 65504"));
}

// The least float32 stands for minus infinity in many masks; rounded to bfloat16 it would become that.
TEST(OddWeights, BFloat16HasNoNewInfinity) {
  auto model = test::model_from_text(product(filled("-3.4028234e38", "0.5"), ""));
  std::vector<Remark> remarks;
  ASSERT_TRUE(test::run_pass("convert-float16", *model, {{"to", "bfloat16"}, {"min-elements", "0"}}, &remarks));
  EXPECT_TRUE(says(remarks, "1 numbers clamped to 3.38953e+38"));
  const auto numbers = to_doubles(*constant(model->graph().nodes_of("Cast")[0]->input(0)));
  ASSERT_TRUE(numbers);
  EXPECT_EQ(numbers->front(), -0x1.FEp127);
}

}  // namespace
}  // namespace onnxfold::odd_weights_test
