#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "ir/verify.h"
#include "tests/support/calibrated_run.h"
#include "tests/support/equivalence.h"

namespace onnxfold::convert_float16_test {
namespace {

using test::model_from_text;
using test::run_pass;

std::string graph(const std::string& interface, const std::string& initializers, const std::string& nodes) {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g " + interface + " <" + initializers + "> { " + nodes + " }";
}

std::unique_ptr<Model> converted(const std::string& text, const test::OptionMap& options = {},
                                 std::vector<Remark>* remarks = nullptr) {
  auto model = model_from_text(text);
  const auto changed = run_pass("convert-float16", *model, options, remarks);
  EXPECT_TRUE(changed && *changed);
  EXPECT_TRUE(verify(*model));
  return model;
}

std::vector<std::string> operators(const Model& model) {
  std::vector<std::string> all;
  for (const Node* node : model.graph().nodes()) all.push_back(node->op_type());
  return all;
}

const std::string kChain = graph("(float[2, 8] x) => (float[2, 4] y)", "float[8, 4] w = {}, float[4] b = {}",
                                 "p = MatMul(x, w) q = Add(p, b) y = Relu(q)");

TEST(ConvertFloat16, OneCastInAndOneOut) {
  const auto model = converted(kChain);
  EXPECT_EQ(operators(*model), (std::vector<std::string>{"Cast", "MatMul", "Add", "Relu", "Cast"}));
  EXPECT_EQ(model->graph().inputs()[0]->dtype(), DType::kFloat32);
  EXPECT_EQ(model->graph().outputs()[0]->dtype(), DType::kFloat32);
  EXPECT_EQ(model->graph().outputs()[0]->name(), "y");
  EXPECT_EQ(model->graph().find("w"), nullptr);
  EXPECT_EQ(test::difference(*model_from_text(kChain), *model, Precision::kFloat32, 5e-3), "");
}

TEST(ConvertFloat16, WhatIsNotSafeStaysInFloat32) {
  const auto model = converted(
      graph("(float[2, 8] x) => (float[2, 8] y)", "float two = {2.0}", "p = Relu(x) q = Pow(p, two) y = Sigmoid(q)"));
  EXPECT_EQ(operators(*model), (std::vector<std::string>{"Cast", "Relu", "Cast", "Pow", "Cast", "Sigmoid", "Cast"}));
}

// LayerNorm as JAX spells it: E[x^2] - mean^2 of numbers far from 0 is lost in half precision.
TEST(ConvertFloat16, NormsSpelledOutKeepTheirStatistics) {
  const std::string text = graph(
      "(float[2, 64] x) => (float[2, 64] y)", "float far = {300.0}, float tiny = {1e-5}, float zero = {0.0}",
      "h = Add(x, far) s = Mul(h, h) e = ReduceMean <axes = [1]> (s) m = ReduceMean <axes = [1]> (h) q = Mul(m, m) "
      "v = Sub(e, q) w = Max(v, zero) a = Add(w, tiny) r = Sqrt(a) i = Reciprocal(r) c = Sub(h, m) y = Mul(c, i)");
  const auto model = converted(text);
  EXPECT_EQ(test::difference(*model_from_text(text), *model, Precision::kFloat32, 0.2), "");
  for (const char* value : {"s", "e", "q", "v", "w", "a", "i"}) {
    EXPECT_EQ(model->graph().find(value)->dtype(), DType::kFloat32) << value;
  }
  EXPECT_EQ(model->graph().find("c")->dtype(), DType::kFloat16);
}

TEST(ConvertFloat16, ArithmeticBesideStatisticsIsConverted) {
  const auto model = converted(graph("(float[2, 8] x) => (float[2, 8] y)", "",
                                     "m = ReduceMean <axes = [1]> (x) p = Mul(x, x) c = Mul(p, m) "
                                     "s = ReduceSum(p) y = Mul(c, s)"));
  EXPECT_EQ(model->graph().find("p")->dtype(), DType::kFloat16);  // read by a product as well
  EXPECT_EQ(model->graph().find("c")->dtype(), DType::kFloat16);
}

TEST(ConvertFloat16, WeightsOfConstantNodesGoWithThem) {
  const auto model = converted(graph("(float[2, 2] x) => (float[2, 2] y)", "",
                                     "w = Constant <value = float[2, 2] {1.0, 2.0, 3.0, 4.0}> () y = MatMul(x, w)"));
  EXPECT_EQ(operators(*model), (std::vector<std::string>{"Cast", "MatMul", "Cast"}));
}

// ONNX Runtime 1.32 has a fault there (see convert_float16.cc).
TEST(ConvertFloat16, ATransposeInFrontOfWeightsStaysInFloat32) {
  const char* weights = "float[8, 4] w = {}, float[8] g = {}, float[8] b = {}";
  const auto model =
      converted(graph("(float[2, 3, 8] x) => (float[3, 2, 4] y)", weights,
                      "n = LayerNormalization(x, g, b) t = Transpose <perm = [1, 0, 2]> (n) y = MatMul(t, w)"));
  EXPECT_EQ(operators(*model),
            (std::vector<std::string>{"Cast", "LayerNormalization", "Cast", "Transpose", "Cast", "MatMul", "Cast"}));
  const auto scores =
      converted(graph("(float[2, 3, 8] x) => (float[2, 3, 3] y)", weights,
                      "n = LayerNormalization(x, g, b) t = Transpose <perm = [0, 2, 1]> (n) y = MatMul(n, t)"));
  EXPECT_EQ(operators(*scores),
            (std::vector<std::string>{"Cast", "LayerNormalization", "Transpose", "MatMul", "Cast"}));
}

TEST(ConvertFloat16, AValueThatIsReadBothWaysIsCastOnce) {
  const auto model =
      converted(graph("(float[2, 8] x) => (float[2, 8] y, float[2, 8] r)", "float two = {2.0}",
                      "r = Relu(x) a = Pow(r, two) b = Sqrt(r) c = Tanh(r) d = Add(a, b) y = Add(c, d)"));
  const auto all = operators(*model);
  EXPECT_EQ(std::count(all.begin(), all.end(), "Cast"), 5);  // x, r, a, b and y
  EXPECT_TRUE(model->graph().outputs()[1]->producer()->is("Cast"));
}

TEST(ConvertFloat16, LargeWeightsKeepTheirNodeAndMasksAreClamped) {
  std::vector<Remark> remarks;
  const auto model =
      converted(graph("(float[2, 2] x) => (float[2, 2] y)", "float[2] w = {70000.0, 1.0}, float m = {-3e38}",
                      "p = Add(x, w) q = Add(p, m) y = Relu(q)"),
                {}, &remarks);
  const auto says = [&](const std::string& text) {
    return std::any_of(remarks.begin(), remarks.end(),
                       [&](const Remark& r) { return r.reason.find(text) != std::string::npos; });
  };
  EXPECT_TRUE(says("'w' has 1 numbers beyond 65504"));
  EXPECT_TRUE(says("1 numbers clamped to 65504"));
  EXPECT_EQ(operators(*model)[0], "Add");
}

// What comes near the largest half on data, what makes it and what reads it, stays in float32.
TEST(ConvertFloat16, ResultsOnDataDecideToo) {
  const std::string text =
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[4, 8] x) => (float[4, 8] y) <float[8, 8] w = {}, float "
      "big = {30000}, float small = {0.0001}> { h = MatMul(x, w) l = Mul(h, big) s = Mul(l, small) y = Relu(s) }";
  const auto source = test::model_from_text(text);
  const Dataset data = *generate_dataset(*source, 1);
  const auto run = test::run_calibrated("convert-float16", text, &data);
  ASSERT_TRUE(run.did());
  EXPECT_TRUE(run.says("'l' reaches"));
  for (const Node* node : run.model->graph().nodes()) {
    if (!node->is("Mul") && !node->is("MatMul")) continue;
    EXPECT_EQ(node->output()->dtype(), node->is("Mul") ? DType::kFloat32 : DType::kFloat16);
  }
  const auto outputs = test::first_output(*run.model, data);
  EXPECT_LT(test::relative_distance(outputs, test::first_output(*source, data)), 0.01);
  // Without data nothing is known.
  const auto blind = test::run_calibrated("convert-float16", text, nullptr);
  EXPECT_FALSE(blind.says("reaches"));
}

TEST(ConvertFloat16, KeepTakesOperatorsAndNodes) {
  const auto model = converted(kChain, {{"keep", "MatMul"}});
  EXPECT_EQ(operators(*model), (std::vector<std::string>{"MatMul", "Cast", "Add", "Relu", "Cast"}));
}

TEST(ConvertFloat16, WeightsAlone) {
  for (const char* type : {"float16", "bfloat16"}) {
    const auto model = converted(kChain, {{"weights-only", "true"}, {"to", type}, {"min-elements", "0"}});
    EXPECT_EQ(operators(*model), (std::vector<std::string>{"Cast", "Cast", "MatMul", "Add", "Relu"}));
    EXPECT_EQ(test::difference(*model_from_text(kChain), *model, Precision::kFloat32, 2e-2), "");
  }
}

// Times the identity, in float64: what is left is the rounding of each weight, half a step of its type at most.
TEST(ConvertFloat16, EveryWeightIsRoundedToTheNearest) {
  const std::string text = graph("(float[16, 16] x) => (float[16, 24] y)", "float[16, 24] w = {}", "y = MatMul(x, w)");
  std::vector<double> eye(256);
  for (std::size_t i = 0; i < 16; ++i) eye[17 * i] = 1;
  const auto numbers = [&](const Model& model) {
    ExecutorOptions options;
    options.precision = Precision::kFloat64;
    Feeds feeds;
    feeds["x"] = Datum(*to_array(*from_doubles(DType::kFloat32, {16, 16}, eye), Precision::kFloat64));
    return *to_doubles((*Executor::create(model, options))->run(feeds)->outputs[0].array);
  };
  const std::vector<double> wanted = numbers(*model_from_text(text));
  for (const auto& [type, bits] : {std::pair<const char*, int>{"float16", 11}, {"bfloat16", 8}}) {
    const auto got = numbers(*converted(text, {{"weights-only", "true"}, {"to", type}, {"min-elements", "0"}}));
    double most = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      if (std::fabs(wanted[i]) < 1e-3) continue;  // subnormal in float16
      most = std::max(most, std::fabs(got[i] - wanted[i]) / std::fabs(wanted[i]));
    }
    EXPECT_LE(most, std::ldexp(1.0, -bits)) << type;
    EXPECT_GT(most, std::ldexp(0.7, -bits)) << type;
  }
}

TEST(ConvertFloat16, WeightsAloneOfConstantNodesAndWhatVanishes) {
  std::vector<Remark> remarks;
  const auto model = converted(graph("(float[1, 2] x) => (float[1, 2] y)", "float u = {1}",
                                     "w = Constant <value = float[2, 2] {1e-9, 1, 2, 3}> () y = MatMul(x, w)"),
                               {{"weights-only", "true"}, {"min-elements", "2"}}, &remarks);
  EXPECT_EQ(operators(*model), (std::vector<std::string>{"Cast", "MatMul"}));
  EXPECT_TRUE(std::any_of(remarks.begin(), remarks.end(), [](const Remark& remark) {
    return remark.reason.find("1 numbers became 0") != std::string::npos;
  }));
}

TEST(ConvertFloat16, BodiesKeepTheirInterface) {
  const auto model = converted(
      graph("(bool c, float[2, 8] x) => (float[2, 8] y)", "float u = {1.0}",
            "r = Relu(x) y = If (c) <then_branch = t () => (float[2, 8] a) { a = Tanh(r) }, else_branch = e () => "
            "(float[2, 8] b) { b = Identity(r) }>"));
  EXPECT_TRUE(verify(*model));
  for (const Graph* body : model->graph().nodes_of("If")[0]->subgraphs()) {
    EXPECT_EQ(body->outputs()[0]->dtype(), DType::kFloat32);
  }
}

TEST(ConvertFloat16, NothingToDo) {
  test::expect_unchanged("convert-float16", graph("(int64[2] x) => (int64[2] y)", "int64 u = {1}", "y = Add(x, u)"));
  test::expect_unchanged("convert-float16", graph("(float[2] x) => (float[2] y)", "int64 u = {1}", "y = Exp(x)"));
}

}  // namespace
}  // namespace onnxfold::convert_float16_test
