#include <gtest/gtest.h>

#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test::set_steps_test {
namespace {

TEST(SetSteps, ChangesTheDepthOfTiedModels) {
  const auto stack = [](int layers) {
    std::string nodes, stream = "x";
    for (int l = 0; l < layers; ++l) {
      const std::string n = std::to_string(l);
      nodes += "h" + n + " = MatMul(" + stream + ", w) t" + n + " = Tanh(h" + n + ") s" + n + " = Add(" + stream +
               ", t" + n + ") ";
      stream = "s" + n;
    }
    return "<ir_version: 8, opset_import: [\"\": 17]> g (float[N,4] x) => (float[N,4] y) <float[4,4] w = {}> { " +
           nodes + "y = Neg(" + stream + ") }";
  };
  const auto model = model_from_text(stack(5));
  ASSERT_TRUE(*run_pass("roll-layers", *model));
  for (const int steps : {2, 9, 1}) {
    ASSERT_TRUE(*run_pass("set-steps", *model, {{"steps", std::to_string(steps)}}));
    EXPECT_EQ(difference(*model_from_text(stack(steps)), *model, Precision::kFloat32, 0), "");
  }
  EXPECT_FALSE(*run_pass("set-steps", *model, {{"steps", "1"}}));
  ASSERT_TRUE(*run_pass("set-steps", *model, {{"steps", "0"}}));
  ASSERT_TRUE(*run_pass("unroll-layers", *model));
  EXPECT_EQ(model->graph().node_count(), 1U);
}
// Layers share `w` and keep biases of their own, b<which[l]>.
std::string with_biases(const std::vector<int>& which) {
  std::string nodes, stream = "x", biases;
  for (int b = 0; b < 6; ++b) biases += ", float[4] b" + std::to_string(b) + " = {}";
  for (std::size_t l = 0; l < which.size(); ++l) {
    const std::string n = std::to_string(l);
    nodes += "h" + n + " = MatMul(" + stream + ", w) a" + n + " = Add(h" + n + ", b" + std::to_string(which[l]) +
             ") t" + n + " = Tanh(a" + n + ") s" + n + " = Add(" + stream + ", t" + n + ") ";
    stream = "s" + n;
  }
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[N,4] x) => (float[N,4] y) <float[4,4] w = {}" + biases +
         "> { " + nodes + "y = Neg(" + stream + ") }";
}
TEST(SetSteps, TurnsThatDifferTakeTheNearest) {
  const std::vector<std::pair<int, std::vector<int>>> cases = {
      {3, {1, 3, 5}}, {1, {3}}, {4, {0, 2, 3, 5}}, {12, {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5}}};
  for (const char* form : {"scan", "loop"}) {
    for (const auto& [steps, which] : cases) {
      const auto model = model_from_text(with_biases({0, 1, 2, 3, 4, 5}));
      ASSERT_TRUE(*run_pass("roll-layers", *model, {{"form", form}}));
      const OptionMap options = {{"steps", std::to_string(steps)}, {"turns", "nearest"}};
      ASSERT_TRUE(*run_pass("set-steps", *model, options));
      const auto expected = model_from_text(with_biases(which));
      EXPECT_EQ(difference(*expected, *model, Precision::kFloat32, 0), "") << form << steps;
      ASSERT_TRUE(*run_pass("unroll-layers", *model));
      EXPECT_EQ(difference(*expected, *model, Precision::kFloat32, 0), "") << form << steps;
    }
  }
}
TEST(SetSteps, NearestTurnsMustBeConstants) {
  const std::string head =
      "<ir_version: 8, opset_import: [\"\": 17]> g (float[N,4] x, float[3,4] c) => (float[N,4] y) <int64 n = {3}, bool "
      "k = {1}> { ";
  const OptionMap options = {{"steps", "2"}, {"turns", "nearest"}};
  expect_unchanged("set-steps",
                   head +
                       "y = Scan <num_scan_inputs = 1, body = d (float[N,4] s, float[4] a) => (float[N,4] t) { t = "
                       "Add(s, a) }> (x, c) }",
                   options);
  expect_unchanged("set-steps",
                   head +
                       "y = Loop(n, k, x) <body = d (int64 i, bool m, float[N,4] s) => (bool l, float[N,4] t) "
                       "{ l = Identity(m) f = Cast <to = 1> (i) t = Mul(s, f) }> }",
                   options);
}
TEST(SetSteps, TurnsThatDifferStay) {
  const std::string head =
      "<ir_version: 8, opset_import: [\"\": 17]> g (float[N,4] x) => (float[N,4] y) <int64 n = {3}, bool c = {1}, "
      "float[3,4] b = {}> { ";
  expect_unchanged("set-steps",
                   head +
                       "y = Loop(n, c, x) <body = d (int64 i, bool k, float[N,4] s) => (bool l, float[N,4] t) "
                       "{ l = Identity(k) f = Cast <to = 1> (i) t = Mul(s, f) }> }",
                   {{"steps", "2"}});
  expect_unchanged("set-steps",
                   head +
                       "y = Scan <num_scan_inputs = 1, body = d (float[N,4] s, float[4] a) => (float[N,4] t) { t = "
                       "Add(s, a) }> (x, b) }",
                   {{"steps", "2"}});
  expect_unchanged(
      "set-steps",
      head +
          "z, all = Loop(n, c, x) <body = d (int64 i, bool k, float[N,4] s) => (bool l, float[N,4] t, float[N,4] u) "
          "{ l = Identity(k) t = Tanh(s) u = Neg(s) }> y = ReduceSum <keepdims = 0> (all, zero) zero = Constant "
          "<value_ints = [0]> () }",
      {{"steps", "2"}});
  expect_error("set-steps", head + "y = Neg(x) }", "needs the option steps");
}

}  // namespace
}  // namespace onnxfold::test::set_steps_test
