#include "passes/quantize/format_rules.h"

#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::format_rules_test {
namespace {

constexpr const char* kTwo = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[2, 64] x) => (float[2, 32] y) <float[64, 64] w1 = {}, float[64, 32] w2 = {}> {
  [first] a = MatMul(x, w1)
  b = Relu(a)
  [second] y = MatMul(b, w2)
})";

std::unique_ptr<Model> quantized(const std::string& formats) {
  auto model = test::model_from_text(kTwo);
  const auto changed = test::run_pass("rtn", *model, {{"min-elements", "0"}, {"formats", formats}});
  EXPECT_TRUE(changed) << changed.error().message;
  return model;
}

const Node* product(const Model& model, std::int64_t outputs) {
  for (const Node* node : model.graph().nodes()) {
    if (node->is("MatMulNBits", "com.microsoft") && node->attr_int("N", 0) == outputs) return node;
  }
  return nullptr;
}

TEST(FormatRules, EveryWeightGetsItsOwn) {
  const auto model = quantized("w1=8/64;w2=2/16/asym");
  EXPECT_EQ(product(*model, 64)->attr_int("bits", 0), 8);
  EXPECT_EQ(product(*model, 64)->attr_int("block_size", 0), 64);
  EXPECT_EQ(product(*model, 64)->inputs().size(), 3U);
  EXPECT_EQ(product(*model, 32)->attr_int("bits", 0), 2);
  EXPECT_EQ(product(*model, 32)->attr_int("block_size", 0), 16);
  EXPECT_EQ(product(*model, 32)->inputs().size(), 4U);
}

TEST(FormatRules, TheFirstMatchCountsAndTheRestStaysAsThePassHasIt) {
  const auto model = quantized("sec*=8;*=2");
  EXPECT_EQ(product(*model, 32)->attr_int("bits", 0), 8);
  EXPECT_EQ(product(*model, 32)->attr_int("block_size", 0), 32);
  EXPECT_EQ(product(*model, 64)->attr_int("bits", 0), 2);
}

TEST(FormatRules, FloatLeavesTheWeightAlone) {
  const auto model = quantized("w1=float");
  EXPECT_EQ(product(*model, 64), nullptr);
  EXPECT_NE(product(*model, 32), nullptr);
  EXPECT_NE(model->graph().find("w1"), nullptr);
}

TEST(FormatRules, WhatIsNoRuleIsRefused) {
  for (const std::string text : {"w1", "=4", "w1=", "w1=5", "w1=4/33", "w1=4/32/both", "w1=float/32", "w1=4/"}) {
    auto model = test::model_from_text(kTwo);
    const auto changed = test::run_pass("rtn", *model, {{"formats", text}});
    ASSERT_FALSE(changed) << text;
    EXPECT_EQ(changed.error().code, Code::kInvalidArgument);
    EXPECT_NE(changed.error().message.find("'" + text + "'"), std::string::npos) << changed.error().message;
  }
}

TEST(FormatRules, AChannelHasNoInt8Scales) {
  auto model = test::model_from_text(kTwo);
  EXPECT_FALSE(test::run_pass("rtn", *model, {{"scales", "int8"}, {"formats", "w1=4/channel"}}));
}

TEST(FormatRules, TextOfAFormatReadsBack) {
  BlockFormat format;
  format.bits = 2;
  format.block = 0;
  format.symmetric = false;
  const std::string text = format_rule_text("a;b,c=[1]*", format);
  const auto rules = parse_format_rules({text, keep_rule_text("x")});
  ASSERT_TRUE(rules) << rules.error().message;
  const BlockFormat read = rules->front().apply(BlockFormat());
  EXPECT_EQ(read.bits, 2);
  EXPECT_EQ(read.block, 0);
  EXPECT_FALSE(read.symmetric);
  EXPECT_EQ(rules->front().pattern, "a?b?c??1??");
  EXPECT_TRUE(rules->back().keep);
}

}  // namespace
}  // namespace onnxfold::format_rules_test
