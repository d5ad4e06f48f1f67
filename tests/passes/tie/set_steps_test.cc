#include <gtest/gtest.h>

#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test {
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
}  // namespace onnxfold::test
