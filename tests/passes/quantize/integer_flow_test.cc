#include "passes/quantize/integer_flow.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ir/match.h"
#include "ir/verify.h"
#include "tests/support/calibrated_run.h"

namespace onnxfold::integer_flow_test {
namespace {

using test::first_output;
using test::relative_distance;
using test::run_calibrated;

Dataset images(const Dims& dims = {2, 4, 8, 8}) {
  std::vector<double> numbers(static_cast<std::size_t>(element_count(dims)));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = std::sin(static_cast<double>(i) * 0.7) + 0.3;
  return test::dataset_of("x", dims, numbers);
}

// A convolution c of x, `between` making v of c (and x), and a convolution of v.
std::string network(const std::string& between, const std::string& constants = "", int channels = 4) {
  return "<ir_version: 9, opset_import: [\"\" : 18]> g (float[2, 4, 8, 8] x) => (float[A, B, C, D] y) <float[4, 4, 3, "
         "3] "
         "a = {}, float[4, " +
         std::to_string(channels) + ", 1, 1] b = {}" + constants + "> { c = Conv <pads = [1, 1, 1, 1]> (x, a) " +
         between + " y = Conv(v, b) }";
}

bool is_rounded(const Value* value) {
  return value != nullptr && value->producer() != nullptr && value->producer()->is("DequantizeLinear");
}

// All operands and results on codes.
void expect_on_codes(const Node& node, std::size_t operands) {
  for (std::size_t i = 0; i < operands; ++i) EXPECT_TRUE(is_rounded(node.input(i))) << node.label();
  const Value* result = absorbed_result(*node.output());
  for (const Use& use : result->uses()) EXPECT_TRUE(use.node->is("QuantizeLinear")) << node.label();
}

struct Hit {
  const char *op, *between, *constants;
  std::size_t operands;
  int channels;
};

TEST(IntegerFlow, WhatLiesBetweenConvolutionsReadsAndGivesCodes) {
  for (const Hit& hit : {
           Hit{"Add", "v = Add(c, x)", "", 2, 4},
           Hit{"Add", "v = Add(k, c)", ", float k = {0.5}", 2, 4},
           Hit{"Add", "s = Add(c, x) v = Relu(s)", "", 2, 4},
           Hit{"Mul", "s = Sigmoid(c) v = Mul(c, s)", "", 2, 4},
           Hit{"Sigmoid", "s = Sigmoid(c) v = Mul(c, s)", "", 1, 4},
           Hit{"LeakyRelu", "v = LeakyRelu(c)", "", 1, 4},
           Hit{"Softmax", "v = Softmax <axis = 1> (c)", "", 1, 4},
           Hit{"Concat", "v = Concat <axis = 1> (c, x)", "", 2, 8},
           Hit{"AveragePool", "v = AveragePool <kernel_shape = [2, 2]> (c)", "", 1, 4},
           Hit{"GlobalAveragePool", "v = GlobalAveragePool(c)", "", 1, 4},
           Hit{"Relu", "r = Relu(c) v = Add(r, c)", "", 1, 4},
       }) {
    const Dataset data = images();
    const std::string text = network(hit.between, hit.constants, hit.channels);
    const auto run = run_calibrated("qdq-int8", text, &data);
    ASSERT_TRUE(run.did()) << hit.between;
    EXPECT_TRUE(verify(*run.model)) << hit.between;
    ASSERT_EQ(run.model->graph().nodes_of(hit.op).size(), 1U) << hit.between;
    expect_on_codes(*run.model->graph().nodes_of(hit.op)[0], hit.operands);
    EXPECT_TRUE(run.says(std::string("1 ") + hit.op)) << hit.between;
    EXPECT_LT(relative_distance(first_output(*run.model, data), first_output(*test::model_from_text(text), data)), 0.05)
        << hit.between;
  }
}

TEST(IntegerFlow, MovesKeepScaleAndZeroPoint) {
  for (const Hit& hit : {
           Hit{"MaxPool", "v = MaxPool <kernel_shape = [2, 2]> (c)", "", 1, 4},
           Hit{"Transpose", "v = Transpose <perm = [0, 1, 3, 2]> (c)", "", 1, 4},
           Hit{"Reshape", "v = Reshape(c, k)", ", int64[4] k = {2, 4, 4, 16}", 1, 4},
           Hit{"Slice", "v = Slice(c, k, l)", ", int64[1] k = {0}, int64[1] l = {1}", 1, 4},
           Hit{"Gather", "v = Gather <axis = 2> (c, k)", ", int64[2] k = {0, 3}", 1, 4},
           Hit{"DepthToSpace", "v = DepthToSpace <blocksize = 2> (c)", "", 1, 1},
           Hit{"Resize", "v = Resize(c, , k)", ", float[4] k = {1, 1, 2, 2}", 1, 4},
           Hit{"Split", "v, w = Split <axis = 1, num_outputs = 2> (c) z = Neg(w)", "", 1, 2},
       }) {
    const Dataset data = images();
    const std::string text = network(hit.between, hit.constants, hit.channels);
    const auto run = run_calibrated("qdq-int8", text, &data);
    ASSERT_TRUE(run.did()) << hit.between;
    EXPECT_TRUE(verify(*run.model)) << hit.between;
    const Node& node = *run.model->graph().nodes_of(hit.op)[0];
    ASSERT_TRUE(is_rounded(node.input(0))) << hit.between;
    for (const Value* output : node.outputs()) {
      const Node* quantize = sole_consumer(output);
      ASSERT_TRUE(quantize != nullptr && quantize->is("QuantizeLinear")) << hit.between;
      EXPECT_EQ(quantize->input(1), node.input(0)->producer()->input(1));
      EXPECT_EQ(quantize->input(2), node.input(0)->producer()->input(2));
    }
    EXPECT_LT(relative_distance(first_output(*run.model, data), first_output(*test::model_from_text(text), data)), 0.05)
        << hit.between;
  }
}

TEST(IntegerFlow, StaysInFloatWhereCodesWouldNotDo) {
  for (const Hit& miss : {
           Hit{"Add", "v = Add(x, x) d = Relu(c)", "", 2, 4},  // reads no result of a convolution
           Hit{"Tanh", "v = Tanh(c)", "", 1, 4},               // no kernel
           Hit{"Div", "v = Div(c, k)", ", float k = {2}", 1, 4},
           Hit{"Resize", "v = Resize <mode = \"linear\"> (c, , k)", ", float[4] k = {1, 1, 2, 2}", 1, 4},
           Hit{"AveragePool", "d = Abs(c) v = AveragePool <kernel_shape = [2, 2]> (d)", "", 1, 4},
           Hit{"AveragePool", "v = AveragePool <kernel_shape = [2, 2], dilations = [2, 2]> (c)", "", 1, 4},
           Hit{"MaxPool", "v, i = MaxPool <kernel_shape = [1, 1]> (c) j = Cast <to = 1> (i)", "", 1, 4},
       }) {
    const Dataset data = images();
    std::string text = network(miss.between, miss.constants, miss.channels);
    if (std::string(miss.between).find("dilations") != std::string::npos) text.replace(text.find(": 18"), 4, ": 19");
    const auto run = run_calibrated("qdq-int8", text, &data);
    ASSERT_TRUE(run.did()) << miss.between;
    ASSERT_FALSE(run.model->graph().nodes_of(miss.op).empty());
    EXPECT_FALSE(run.says(std::string("1 ") + miss.op)) << miss.between;
  }
}

TEST(IntegerFlow, AConstantThatEightBitsChangeTooMuchKeepsItsNodeInFloat) {
  // Steps of 1 / 255: an error of 0.002 beside a thousand of 0.01.
  std::string numbers = "1";
  for (int i = 1; i < 256; ++i) numbers += ", 0.0058";
  const Dataset data = images();
  const std::string text = network("v = Mul(c, k)", ", float[4, 8, 8] k = {" + numbers + "}");
  const auto run = run_calibrated("qdq-int8", text, &data);
  ASSERT_TRUE(run.did());
  EXPECT_FALSE(run.says("1 Mul"));
  EXPECT_FALSE(is_rounded(run.model->graph().nodes_of("Mul")[0]->input(1)));
}

TEST(IntegerFlow, NothingIsRoundedThatNoOneNeedsInCodes) {
  const std::string text =
      "<ir_version: 9, opset_import: [\"\" : 18]> g (float[2, 4, 8, 8] x) => (float[A, B, C, D] y) <float[4, 4, 3, 3] "
      "a = "
      "{}> { c = Conv <pads = [1, 1, 1, 1]> (x, a) s = Add(c, x) t = Reshape(s, k) y = Tanh(t) }";
  const Dataset data = images();
  std::string shaped = text;
  shaped.replace(shaped.find("{}>"), 3, "{}, int64[4] k = {2, 4, 4, 16}>");
  const auto run = run_calibrated("qdq-int8", shaped, &data);
  ASSERT_TRUE(run.did());
  EXPECT_EQ(run.model->graph().nodes_of("QuantizeLinear").size(), 2U);  // x and c
  EXPECT_FALSE(is_rounded(run.model->graph().nodes_of("Add")[0]->input(1)));
}

TEST(IntegerFlow, CodesAreJoinedWhoeverReadsThem) {
  const Dataset data = images();
  const auto run = run_calibrated(
      "qdq-int8", network("d = Conv <pads = [1, 1, 1, 1]> (x, a) j = Concat <axis = 1> (c, d) v = Tanh(j)", "", 8),
      &data);
  ASSERT_TRUE(run.did());
  expect_on_codes(*run.model->graph().nodes_of("Concat")[0], 2);
  const auto mixed = run_calibrated("qdq-int8",
                                    network("j = Concat <axis = 1> (c, x) f = Abs(x) k = Concat <axis = 1> (f, c) t = "
                                            "Tanh(k) v = Add(j, t)",
                                            "", 8),
                                    &data);
  ASSERT_TRUE(mixed.did());
  EXPECT_TRUE(mixed.says("1 Concat"));
}

TEST(IntegerFlow, ProductsOfFloatResultKeepTheirResidualStream) {
  const std::string text =
      "<ir_version: 9, opset_import: [\"\" : 18]> g (float[2, 4, 8, 8] x) => (float[A, B, C, D] y) <float[8, 8] a = "
      "{}> { "
      "m = MatMul(x, a) s = Add(m, x) y = MatMul(s, a) }";
  const Dataset data = images();
  const auto run = run_calibrated("qdq-int8", text, &data);
  ASSERT_TRUE(run.did());
  const Node& add = *run.model->graph().nodes_of("Add")[0];
  EXPECT_FALSE(is_rounded(add.input(0)) || is_rounded(add.input(1)));
}

TEST(IntegerFlow, BetweenFloat) {
  const Dataset data = images();
  const auto run = run_calibrated("qdq-int8", network("v = Add(c, x)"), &data, {{"between", "float"}});
  ASSERT_TRUE(run.did());
  EXPECT_FALSE(is_rounded(run.model->graph().nodes_of("Add")[0]->input(1)));
}

// ONNX Runtime keeps a Clip, and with it a convolution in float, when one code lies a rounding error beyond it.
TEST(IntegerFlow, NoCodeLiesBeyondTheClip) {
  for (const auto& [low, high] : {std::pair{0.0F, 0.3F}, {-0.25F, 0.25F}, {-0.1F, 0.37F}}) {
    const Dataset data = images();
    const std::string bounds = ", float l = {" + std::to_string(low) + "}, float h = {" + std::to_string(high) + "}";
    const auto run = run_calibrated("qdq-int8", network("v = Clip(c, l, h)", bounds), &data, {{"ranges", "min-max"}});
    ASSERT_TRUE(run.did());
    const Node& clip = *run.model->graph().nodes_of("Clip")[0];
    EXPECT_TRUE(clip.input(0)->producer()->is("Conv"));
    const Node* quantize = sole_consumer(clip.output());
    ASSERT_TRUE(quantize != nullptr && quantize->is("QuantizeLinear"));
    const auto scale = static_cast<float>(*scalar_constant(quantize->input(1)));
    const auto zero = static_cast<float>(*scalar_constant(quantize->input(2)));
    EXPECT_GE(-scale * zero, low);
    EXPECT_LE(scale * (255 - zero), high);
    EXPECT_GT(scale * 255, 0.98F * (high - low));
  }
}

TEST(IntegerFlow, AClipWithoutZeroIsNotAbsorbed) {
  const auto model = test::model_from_text(network("v = Clip(c, l, h)", ", float l = {0.1}, float h = {1}"));
  Value* made = model->graph().nodes_of("Conv")[0]->output();
  EXPECT_EQ(absorbed_result(*made), made);
}

}  // namespace
}  // namespace onnxfold::integer_flow_test
