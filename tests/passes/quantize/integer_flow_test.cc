#include "passes/quantize/integer_flow.h"

#include <gtest/gtest.h>

#include <algorithm>
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
  const Value* result = node.output();
  const Node* clip = sole_consumer(result);
  if (clip != nullptr && (clip->is("Relu") || clip->is("Clip"))) result = clip->output();
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
           Hit{"Add", "v = Add(k, c)", ", float[4, 1, 1] k = {0.5, 0.25, 1, 0.75}", 2, 4},
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
    for (const Value* value : run.model->graph().initializers()) EXPECT_FALSE(value->uses().empty()) << value->name();
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
           Hit{"Div", "e = Exp(x) v = Div(c, e)", "", 1, 4},
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

// HardSwish and HardSigmoid as operators or spelled out: nothing but integer sums and products is left.
TEST(IntegerFlow, HardActivationsAreSumsAndProductsOfCodes) {
  struct Case {
    const char *between, *constants;
    std::size_t sums, products;
  };
  const std::string spelled = ", float three = {3}, float zero = {0}, float six = {6}, float k = {0.4}, float l = {1}";
  for (const Case& given : {
           Case{"v = HardSwish(c)", "", 1, 1},
           Case{"v = HardSigmoid(c)", "", 1, 0},
           Case{"s = HardSigmoid <alpha = 0.1666667> (c) v = Mul(s, c)", "", 1, 1},
           Case{"p = Add(c, three) q = Clip(p, zero, six) d = Mul(c, q) v = Div(d, six)", spelled.c_str(), 1, 1},
           Case{"p = Add(three, c) q = Clip(p, zero, six) d = Mul(q, c) e = Div(d, six) f = Mul(k, e) v = Sub(f, l)",
                spelled.c_str(), 1, 1},
       }) {
    const Dataset data = images();
    const std::string text = network(given.between, given.constants);
    const auto run = run_calibrated("qdq-int8", text, &data);
    ASSERT_TRUE(run.did()) << given.between;
    EXPECT_TRUE(verify(*run.model)) << given.between;
    const Graph& graph = run.model->graph();
    EXPECT_EQ(graph.nodes_of("Add").size(), given.sums) << given.between;
    EXPECT_EQ(graph.nodes_of("Mul").size(), given.products) << given.between;
    for (const char* op : {"Div", "Sub", "HardSwish", "HardSigmoid"}) {
      EXPECT_TRUE(graph.nodes_of(op).empty()) << given.between << op;
    }
    for (const char* op : {"Add", "Mul"}) {
      for (const Node* node : graph.nodes_of(op)) expect_on_codes(*node, 2);
    }
    EXPECT_LT(relative_distance(first_output(*run.model, data), first_output(*test::model_from_text(text), data)), 0.05)
        << given.between;
  }
}

TEST(IntegerFlow, HardSwishInFloatStaysAsItIs) {
  const Dataset data = images();
  const auto alone = run_calibrated("qdq-int8", network("v = HardSwish(x) d = Neg(c)"), &data);
  EXPECT_EQ(alone.model->graph().nodes_of("HardSwish").size(), 1U);
  const auto unasked = run_calibrated("qdq-int8", network("v = HardSwish(c)"), &data, {{"between", "float"}});
  EXPECT_EQ(unasked.model->graph().nodes_of("HardSwish").size(), 1U);
  const auto falling = run_calibrated("qdq-int8", network("v = HardSigmoid <alpha = -0.2> (c)"), &data);
  EXPECT_EQ(falling.model->graph().nodes_of("HardSigmoid").size(), 1U);
}

// What HardSwish makes 0 of needs no codes of its own.
TEST(IntegerFlow, NoCodesForNumbersThatHardSwishDrops) {
  std::vector<double> numbers(2 * 4 * 8 * 8);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = 20 * std::sin(static_cast<double>(i) * 0.7);
  const Dataset data = test::dataset_of("x", {2, 4, 8, 8}, numbers);
  const auto least = [&](const std::string& between) {
    const auto run = run_calibrated("qdq-int8", network(between), &data, {{"ranges", "min-max"}});
    const Node& quantize = *sole_consumer(run.model->graph().nodes_of("Conv")[0]->output());
    return -*scalar_constant(quantize.input(1)) * *scalar_constant(quantize.input(2));
  };
  EXPECT_NEAR(least("v = HardSwish(c)"), -3, 0.5);
  EXPECT_LT(least("h = HardSwish(c) v = Add(h, c)"), -6);
}

TEST(IntegerFlow, NodesThatCodesCannotTakeInStay) {
  for (const Hit& miss : {
           Hit{"Mul", "v = Mul(c, k)", ", float k = {-2}", 2, 4}, Hit{"Sub", "v = Sub(k, c)", ", float k = {2}", 2, 4},
           Hit{"Div", "v = Div(k, c)", ", float k = {2}", 2, 4},
           Hit{"Add", "s = Sigmoid(c) v = Add(s, k)", ", float k = {0.001}", 2, 4},  // a quarter of a step
           Hit{"Mul", "m = Mul(c, k) v = Add(c, m)", ", float k = {2}", 2, 4},       // c has another reader
           Hit{"Add", "v = Add(c, k)", ", float[1, 1, 1, 1, 1] k = {2}", 2, 4},      // a rank more
       }) {
    if (std::string(miss.constants).find("1, 1, 1, 1, 1") != std::string::npos) {
      const auto model = test::model_from_text(network("v = Add(c, k) w = Squeeze(v)", miss.constants));
      EXPECT_EQ(rounded_results(*model->graph().nodes_of("Conv")[0]->output()).size(), 1U);
      continue;
    }
    const Dataset data = images();
    const auto run = run_calibrated("qdq-int8", network(miss.between, miss.constants, miss.channels), &data);
    EXPECT_EQ(run.model->graph().nodes_of(miss.op).size(), 1U) << miss.between;
  }
}

TEST(RoundedResult, BothGridsSayTheSame) {
  int made = 0;
  for (const double scale : {0.01, 1.0, 7.0}) {
    for (const double shift : {-100.0, -3.0, -0.02, 0.0, 0.001, 0.5, 40.0}) {
      for (const ActivationRange& range : {ActivationRange{-1, 2}, {0, 30}, {-0.5, 0}, {-90, 110}}) {
        RoundedResult result;
        result.scale = scale;
        result.shift = shift;
        const auto grids = rounded_grids(result, uint8_grid(range));
        if (!grids) continue;
        ++made;
        const double read = grids->read.scale;
        for (const int code : {0, 17, 255}) {
          const double value = (code - grids->written.zero) * static_cast<double>(grids->written.scale);
          EXPECT_NEAR(scale * value + shift, (code - grids->read.zero) * read, read / 16) << scale << " " << shift;
        }
        EXPECT_LE(-grids->read.zero * read, std::min(range.low, shift) + read);
        EXPECT_GE((255 - grids->read.zero) * read, std::max(range.high, shift) - read);
      }
    }
  }
  EXPECT_GT(made, 50);
}

TEST(RoundedResult, TheShiftIsAWholeNumberOfStepsOrNothing) {
  RoundedResult result;
  const Uint8Grid seen = uint8_grid({-1, 1.55});  // steps of 0.01
  for (const auto& [shift, hit] :
       {std::pair{0.0001, true}, {0.002, false}, {0.015, false}, {0.055, true}, {0.5, true}}) {
    result.shift = shift;
    EXPECT_EQ(rounded_grids(result, seen).has_value(), hit) << shift;
  }
  result.shift = 0.5;
  result.clip = ClipRange{-1.5, 1.05};
  ASSERT_TRUE(rounded_grids(result, seen));
  result.clip = ClipRange{-1, 1.05};  // codes from -1 on stand for less
  EXPECT_FALSE(rounded_grids(result, seen));
}

TEST(RoundedResult, AClipWithoutZeroIsNotTakenIn) {
  const auto model = test::model_from_text(network("v = Clip(c, l, h)", ", float l = {0.1}, float h = {1}"));
  Value* made = model->graph().nodes_of("Conv")[0]->output();
  const auto results = rounded_results(*made);
  ASSERT_EQ(results.size(), 1U);
  EXPECT_EQ(results[0].end, made);
}

// Behind a sum a Clip that stays would need codes of its own.
TEST(RoundedResult, StopsInFrontOfAClipOrBehindIt) {
  const auto model = test::model_from_text(network("p = Add(c, k) q = Relu(p) v = Mul(q, k)", ", float k = {2}"));
  const auto results = rounded_results(*model->graph().nodes_of("Conv")[0]->output());
  ASSERT_EQ(results.size(), 3U);  // all, up to the Relu, nothing
  EXPECT_EQ(results[0].scale, 2);
  EXPECT_EQ(results[0].shift, 4);
  EXPECT_EQ(results[1].nodes.size(), 2U);
  EXPECT_TRUE(results[2].nodes.empty());
}

}  // namespace
}  // namespace onnxfold::integer_flow_test
