// Weights that no fast low-bit operator takes, and weights wherever exporters put them.
#include <gtest/gtest.h>

#include <cmath>

#include "ir/verify.h"
#include "tests/support/calibrated_run.h"

namespace onnxfold::others_test {
namespace {

using test::first_output;
using test::OptionMap;
using test::relative_distance;
using test::run_passes;

std::string text_of(const std::string& interface, const std::string& weights, const std::string& nodes) {
  return "<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]> g " + interface + " <" + weights + "> { " +
         nodes + " }";
}

struct Counts {
  std::size_t dequantize = 0, packed = 0;
};

Counts count(Model& model) {
  Counts counts;
  for (const Graph* graph : model.graphs()) {
    counts.dequantize += graph->nodes_of("DequantizeLinear").size();
    counts.packed += graph->nodes_of("MatMulNBits", "com.microsoft").size();
  }
  return counts;
}

// Quantized to 8 bits the model gives nearly the same, has so many dequantized and packed weights, and no float weight
// of a thousand elements.
void expect_quantized(const std::string& text, std::size_t dequantize, std::size_t packed,
                      const OptionMap& options = {{"others", "8"}, {"bits", "8"}, {"block", "16"}},
                      double limit = 0.02) {
  const auto source = test::model_from_text(text);
  const Dataset data = *generate_dataset(*source, 3);
  const auto run = run_passes({{"rtn", options, {}}}, text, nullptr);
  ASSERT_TRUE(run.changed) << run.changed.error().message;
  EXPECT_TRUE(*run.changed) << text;
  EXPECT_TRUE(verify(*run.model));
  const Counts counts = count(*run.model);
  EXPECT_EQ(counts.dequantize, dequantize) << text;
  EXPECT_EQ(counts.packed, packed) << text;
  for (const Graph* graph : run.model->graphs()) {
    for (const Value* value : graph->initializers()) {
      EXPECT_FALSE(is_float(value->constant()->dtype()) && value->constant()->size() >= 1024) << value->name();
    }
  }
  EXPECT_LT(relative_distance(first_output(*run.model, data), first_output(*source, data)), limit) << text;
}

constexpr const char* kExperts = "(float[4, 3, 64] x) => (float[4, 3, 24] y)";

TEST(Others, BatchedExpertWeights) {
  expect_quantized(text_of(kExperts, "float[4, 64, 24] w = {}", "y = MatMul(x, w)"), 1, 0);
  expect_quantized(text_of(kExperts, "float[4, 64, 24] w = {}", "y = MatMul(x, w)"), 1, 0,
                   {{"others", "bits"}, {"bits", "8"}, {"scales", "float16"}});
  expect_quantized(
      text_of("(float[2, 4, 3, 64] x) => (float[2, 4, 3, 24] y)", "float[2, 4, 64, 24] w = {}", "y = MatMul(x, w)"), 1,
      0);
}

TEST(Others, LeftOperands) {
  expect_quantized(text_of("(float[64, 3] x) => (float[32, 3] y)", "float[32, 64] w = {}", "y = MatMul(w, x)"), 1, 0);
}

TEST(Others, RecurrentWeights) {
  expect_quantized(text_of("(float[5, 2, 32] x) => (float[5, 1, 2, 16] y)",
                           "float[1, 64, 32] w = {}, float[1, 64, 16] r = {}", "y = LSTM<hidden_size=16>(x, w, r)"),
                   2, 0);
  expect_quantized(text_of("(float[5, 2, 64] x) => (float[5, 1, 2, 32] y)",
                           "float[1, 96, 64] w = {}, float[1, 96, 32] r = {}", "y = GRU<hidden_size=32>(x, w, r)"),
                   2, 0);
  expect_quantized(text_of("(float[5, 2, 64] x) => (float[5, 1, 2, 32] y)",
                           "float[1, 32, 64] w = {}, float[1, 32, 32] r = {}", "y = RNN<hidden_size=32>(x, w, r)"),
                   2, 0, {{"others", "8"}, {"block", "16"}}, /*limit=*/0.05);  // random weights amplify
}

TEST(Others, Convolutions) {
  for (const char* block : {"16", "channel"}) {
    const OptionMap options = {{"others", "8"}, {"block", block}};
    expect_quantized(
        text_of("(float[1, 16, 6, 6] x) => (float[1, 8, 4, 4] y)", "float[8, 16, 3, 3] w = {}", "y = Conv(x, w)"), 1, 0,
        options);
    expect_quantized(text_of("(float[1, 32, 6, 6] x) => (float[1, 32, 4, 4] y)", "float[32, 4, 3, 3] w = {}",
                             "y = Conv<group=8>(x, w)"),
                     1, 0, options);
    expect_quantized(text_of("(float[1, 16, 6, 6] x) => (float[1, 8, 8, 8] y)", "float[16, 8, 3, 3] w = {}",
                             "y = ConvTranspose(x, w)"),
                     1, 0, options);
    expect_quantized(
        text_of("(float[1, 32, 16] x) => (float[1, 16, 14] y)", "float[16, 32, 3] w = {}", "y = Conv(x, w)"), 1, 0,
        options);
  }
}

TEST(Others, WeightsBehindConstantTransposeCastAndIdentity) {
  const char* io = "(float[3, 64] x) => (float[3, 32] y)";
  const OptionMap eight = {{"bits", "8"}};
  expect_quantized(text_of(io, "float[32, 64] w = {}", "t = Transpose<perm=[1,0]>(w) y = MatMul(x, t)"), 0, 1, eight);
  expect_quantized(text_of(io, "float[64, 32] w = {}", "t = Identity(w) y = MatMul(x, t)"), 0, 1, eight);
  expect_quantized(text_of(io, "float[64, 32] w = {}", "h = Cast<to=10>(w) t = Cast<to=1>(h) y = MatMul(x, t)"), 0, 1,
                   eight);
  expect_quantized(text_of(io, "float[32, 64] w = {}",
                           "h = Cast<to=10>(w) c = Cast<to=1>(h) i = Identity(c) t = Transpose(i) y = MatMul(x, t)"),
                   0, 1, eight);
  // A Constant node: its tensor in the text would be long, so lift-constants' reverse is not needed: 32 x 32 zeros.
  std::string numbers;
  for (int i = 0; i < 32 * 32; ++i) numbers += (i > 0 ? "," : "") + std::to_string(i % 7 - 3);
  expect_quantized(text_of("(float[3, 32] x) => (float[3, 32] y)", "float unused = {0}",
                           "w = Constant<value = float[32, 32] {" + numbers + "}>() y = MatMul(x, w)"),
                   0, 1, eight);
}

TEST(Others, SharedByNodesAndInSubgraphs) {
  const OptionMap eight = {{"bits", "8"}};
  const auto shared = run_passes(
      {{"rtn", eight, {}}},
      text_of("(float[3, 64] x) => (float[3, 64] y)", "float[64, 64] w = {}", "h = MatMul(x, w) y = MatMul(h, w)"),
      nullptr);
  EXPECT_EQ(count(*shared.model).packed, 2U);
  EXPECT_EQ(shared.model->graph().initializers().size(), 2U);  // codes and scales, once
  // A weight of the branch and one of the graph around it.
  expect_quantized(
      "<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]> g (bool c, float[3, 64] x) => "
      "(float[3, 32] y) <float[64, 32] w = {}, float[64, 32] v = {}> { y = If (c) <then_branch = a () => "
      "(float[3, 32] p) { p = MatMul(x, w) }, else_branch = b () => (float[3, 32] q) { q = MatMul(x, v) "
      "}> }",
      0, 2, eight);
}

TEST(Others, TablesOfExpertsEinsumAndLeftOperandsOfGemm) {
  expect_quantized(text_of("(float[2, 3, 64] x, int64[2] i) => (float[2, 3, 24] y)", "float[4, 64, 24] w = {}",
                           "e = Gather(w, i) y = MatMul(x, e)"),
                   1, 0);
  expect_quantized(text_of("(float[4, 3, 64] x) => (float[4, 3, 24] y)", "float[4, 64, 24] w = {}",
                           "y = Einsum <equation = \"ebk,ekn->ebn\"> (x, w)"),
                   1, 0);
  expect_quantized(text_of("(float[64, 3] x) => (float[32, 3] y)", "float[32, 64] w = {}", "y = Gemm(w, x)"), 1, 0);
}

TEST(Others, BlocksOfEinsumRunAlongTheSummedAxis) {
  const auto run = run_passes({{"rtn", {{"others", "8"}, {"block", "16"}}, {}}},
                              text_of("(float[5, 64] x) => (float[5, 32] y)", "float[64, 32] w = {}",
                                      "y = Einsum <equation = \"b k, k n -> b n\"> (x, w)"),
                              nullptr);
  ASSERT_TRUE(run.did());
  const Node& decode = *run.model->graph().nodes_of("DequantizeLinear").at(0);
  EXPECT_EQ(decode.attr_int("axis", -1), 0);
  EXPECT_EQ(decode.input(1)->static_dims(), (Dims{4, 32}));
}

TEST(Others, WeightsThatAreMovedFirstAreSaid) {
  const auto run =
      run_passes({{"rtn", {}, {}}},
                 text_of("(float[5, 64] x) => (float[5, 48] y)", "float[64, 6, 8] w = {}, int64[2] s = {64, 48}",
                         "v = Reshape(w, s) y = MatMul(x, v)"),
                 nullptr);
  ASSERT_TRUE(run.changed);
  EXPECT_FALSE(*run.changed);
  EXPECT_TRUE(run.says("recipe clean"));
}

// ONNX Runtime loads no body whose DequantizeLinear reads codes from outside.
TEST(Others, StandardWeightsOfOneBodyMoveIntoIt) {
  const std::string text =
      text_of("(float[3, 64] x, bool c) => (float[3, 32] y)", "float[64, 32] w = {}, float[64, 32] v = {}",
              "y = If (c) <then_branch = a () => (float[3, 32] p) { p = MatMul(x, w) }, "
              "else_branch = b () => (float[3, 32] q) { q = MatMul(x, v) }>");
  const OptionMap options = {{"form", "dequantizelinear"}, {"symmetric", "false"}, {"scales", "float16"}};
  expect_quantized(text, 2, 0, options, 0.2);
  const auto run = run_passes({{"rtn", options, {}}}, text, nullptr);
  for (const Graph* body : run.model->graph().nodes_of("If").at(0)->subgraphs()) {
    const Node& decode = *body->nodes_of("DequantizeLinear").at(0);
    EXPECT_EQ(decode.input(0)->graph(), body);
  }
}

TEST(Others, StandardWeightsOfSeveralBodiesAreDecodedOutside) {
  const std::string text = text_of("(float[3, 64] x, bool c) => (float[3, 32] y)", "float[64, 32] w = {}",
                                   "y = If (c) <then_branch = a () => (float[3, 32] p) { p = MatMul(x, w) }, "
                                   "else_branch = b () => (float[3, 32] q) { r = MatMul(x, w) q = Neg(r) }>");
  const OptionMap options = {{"form", "dequantizelinear"}};
  expect_quantized(text, 2, 0, options, 0.2);
  const auto run = run_passes({{"rtn", options, {}}}, text, nullptr);
  EXPECT_EQ(run.model->graph().nodes_of("DequantizeLinear").size(), 2U);
  EXPECT_EQ(run.model->graph().initializers().size(), 2U);  // codes and scales, once
}

TEST(Others, StayInFloatWithAReasonUnlessAsked) {
  for (const auto& [text, reason] : std::initializer_list<std::pair<std::string, std::string>>{
           {text_of(kExperts, "float[4, 64, 24] w = {}", "y = MatMul(x, w)"), "weight has rank 3"},
           {text_of("(float[64, 3] x) => (float[32, 3] y)", "float[32, 64] w = {}", "y = MatMul(w, x)"),
            "left operand"},
           {text_of("(float[1, 16, 6, 6] x) => (float[1, 8, 4, 4] y)", "float[8, 16, 3, 3] w = {}", "y = Conv(x, w)"),
            "no fast low-bit form"}}) {
    const auto run = run_passes({{"rtn", {}, {}}}, text, nullptr);
    ASSERT_TRUE(run.changed);
    EXPECT_FALSE(*run.changed);
    EXPECT_TRUE(run.says(reason)) << text;
  }
}

// What ONNX Runtime's optimizer leaves behind.
TEST(Others, FusedMatMulIsAProduct) {
  const std::string io = "(float[3, 64] x) => (float[3, 32] y)";
  const OptionMap options = {{"bits", "8"}};
  expect_quantized(text_of(io, "float[64, 32] w = {}", "y = com.microsoft.FusedMatMul(x, w)"), 0, 1, options);
  expect_quantized(text_of(io, "float[32, 64] w = {}", "y = com.microsoft.FusedMatMul<transB = 1, alpha = 0.25>(x, w)"),
                   0, 1, options);
  expect_quantized(text_of(io, "float[32, 64] w = {}", "y = com.microsoft.FusedMatMul<transB = 1, alpha = 0.25>(x, w)"),
                   1, 0, {{"bits", "8"}, {"form", "dequantizelinear"}});
  const auto run = run_passes({{"rtn", {}, {}}},
                              text_of("(float[64, 3] x) => (float[3, 32] y)", "float[64, 32] w = {}",
                                      "y = com.microsoft.FusedMatMul<transA = 1>(x, w)"),
                              nullptr);
  EXPECT_FALSE(run.did());
  EXPECT_TRUE(run.says("transA is set"));
}

TEST(Others, FusedOperatorsOfOnnxRuntime) {
  expect_quantized(text_of("(float[3, 64] x) => (float[3, 32] y)", "float[64, 32] w = {}, float[32] b = {}",
                           "y = com.microsoft.FusedGemm<activation = \"Relu\">(x, w, b)"),
                   1, 0);
  expect_quantized(text_of("(float[1, 16, 6, 6] x) => (float[1, 8, 4, 4] y)", "float[8, 16, 3, 3] w = {}",
                           "y = com.microsoft.FusedConv<activation = \"Relu\", kernel_shape = [3, 3]>(x, w)"),
                   1, 0);
  expect_quantized(text_of("(int32[2, 5] i) => (float[2, 5, 32] y)",
                           "float[64, 32] words = {}, float[64, 32] positions = {}, float[32] g = {}, float[32] b = {}",
                           "y, m = com.microsoft.EmbedLayerNormalization(i, , words, positions, , g, b)"),
                   2, 0);
  const auto run =
      run_passes({{"rtn", {}, {}}},
                 text_of("(float[2, 5, 32] x) => (float[2, 5, 32] y)", "float[32, 96] w = {}, float[96] b = {}",
                         "y = com.microsoft.Attention<num_heads = 2>(x, w, b)"),
                 nullptr);
  EXPECT_TRUE(run.says("weights of Attention have no fast low-bit form"));
}

TEST(Others, MatricesOfOtherOperatorsAreSaid) {
  const std::string io = "(float[1, 64, 32] x) => (float[1, 64, 32] y)";
  const auto run = run_passes({{"rtn", {}, {}}}, text_of(io, "float[1, 64, 32] p = {}", "y = Add(x, p)"), nullptr);
  EXPECT_FALSE(run.did());
  EXPECT_TRUE(run.says("Add has no low-bit form"));
  for (const char* small : {"float[1, 1, 32] p = {}", "float[32] p = {}"}) {
    EXPECT_FALSE(
        run_passes({{"rtn", {}, {}}}, text_of(io, small, "y = Add(x, p)"), nullptr).says("has no low-bit form"));
  }
}

TEST(Others, WhatIsQuantizedAlreadyIsLeftAloneAndSaid) {
  const std::string text = text_of("(int64[3] i) => (float[3, 64] y)", "float[40, 64] t = {}, float[64, 64] w = {}",
                                   "e = Gather(t, i) y = MatMul(e, w)");
  for (const char* form : {"matmulnbits", "dequantizelinear"}) {
    const auto run = run_passes({{"rtn", {{"form", form}}, {}}, {"rtn", {{"bits", "3"}}, {}}}, text, nullptr);
    ASSERT_TRUE(run.changed);
    EXPECT_FALSE(*run.changed) << form;
    EXPECT_TRUE(run.says("already quantized to")) << form;
  }
}

}  // namespace
}  // namespace onnxfold::others_test
