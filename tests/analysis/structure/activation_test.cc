#include "analysis/structure/activation.h"

#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::activation_test {
namespace {

using test::model_from_text;

std::string graph_text(const std::string& nodes, const std::string& outputs = "float[2] y") {
  return "<ir_version: 8, opset_import: [\"\" : 20, \"com.microsoft\" : 1]> g (float[2] x, float[2] s) => (" + outputs +
         ") <float half = {0.5}, float one = {1}, float two = {2}, float three = {3}, float root2 = {1.4142135},"
         " float inv_root2 = {0.70710677}, float c = {0.044715}, float k = {0.7978846}, float quick = {1.702},"
         " float zero = {0}, float six = {6}> { " +
         nodes + " }";
}

struct Case {
  const char* nodes;
  ActivationMatch::Kind kind;
};

class Spelling : public testing::TestWithParam<Case> {};

TEST_P(Spelling, IsRecognised) {
  const auto model = model_from_text(graph_text(GetParam().nodes));
  const auto found = activation_making(model->graph().find("y"));
  ASSERT_TRUE(found) << GetParam().nodes;
  EXPECT_EQ(found->kind, GetParam().kind) << name(found->kind);
  EXPECT_EQ(found->input->name(), "x");
  EXPECT_EQ(find_activations(model->graph()).size(), 1U);
}

using Kind = ActivationMatch::Kind;
INSTANTIATE_TEST_SUITE_P(
    All, Spelling,
    testing::Values(
        Case{"y = Relu(x)", Kind::kRelu}, Case{"y = Gelu(x)", Kind::kGelu},
        Case{"y = Gelu <approximate = \"tanh\"> (x)", Kind::kGeluTanh},
        Case{"y = com.microsoft.FastGelu(x)", Kind::kGeluTanh},
        Case{"d = Div(x, root2) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)", Kind::kGelu},
        Case{"d = Mul(x, inv_root2) e = Erf(d) a = Add(one, e) h = Mul(half, x) y = Mul(h, a)", Kind::kGelu},
        Case{"d = Div(x, root2) e = Erf(d) a = Add(e, one) h = Mul(a, half) y = Mul(x, h)", Kind::kGelu},
        Case{"p = Pow(x, three) q = Mul(p, c) a = Add(x, q) t = Mul(a, k) u = Tanh(t) v = Add(u, one) h = Mul(x, half)"
             " y = Mul(h, v)",
             Kind::kGeluTanh},
        Case{"x2 = Mul(x, x) x3 = Mul(x2, x) q = Mul(c, x3) a = Add(x, q) t = Mul(k, a) u = Tanh(t) v = Add(one, u)"
             " h = Mul(half, v) y = Mul(x, h)",
             Kind::kGeluTanh},
        Case{"z = Sigmoid(x) y = Mul(x, z)", Kind::kSilu}, Case{"z = Sigmoid(x) y = Mul(z, x)", Kind::kSilu},
        Case{"q = Mul(x, quick) z = Sigmoid(q) y = Mul(x, z)", Kind::kQuickGelu},
        Case{"p = Softplus(x) t = Tanh(p) y = Mul(x, t)", Kind::kMish},
        Case{"h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul(x, h)", Kind::kHardSwish},
        Case{"a = Add(x, three) b = Clip(a, zero, six) d = Div(b, six) y = Mul(x, d)", Kind::kHardSwish},
        Case{"r = Relu(x) y = Mul(r, r)", Kind::kSquaredRelu},
        Case{"r = Relu(x) y = Pow(r, two)", Kind::kSquaredRelu}));

TEST(Activation, ConstantsOfAHalfPrecisionGraphAreRounded) {
  for (const bool right : {true, false}) {  // the bits of 0.5, 1 and 1.4140625, or the next number
    const auto model = model_from_text(
        std::string(
            "<ir_version: 8, opset_import: [\"\" : 20]> g (float16[2] x) => (float16[2] y) <float16 half = {14336}, "
            "float16 one = {15360}, float16 root2 = {") +
        (right ? "15784" : "15786") +
        "}> { d = Div(x, root2) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half) }");
    const auto found = activation_making(model->graph().find("y"));
    EXPECT_EQ(found.has_value(), right);
    if (found) {
      EXPECT_EQ(found->kind, Kind::kGelu);
      EXPECT_GT(found->error, 1e-5);  // the chain computes with the rounded constant
    }
  }
}

TEST(Activation, NearMisses) {
  for (const char* nodes : {
           "z = Sigmoid(s) y = Mul(x, z)",                                                 // a gate
           "d = Div(x, two) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)",    // wrong constant
           "d = Div(x, root2) e = Erf(d) a = Add(e, one) m = Mul(s, a) y = Mul(m, half)",  // two sources
           "r = Relu(x) y = Mul(r, s)",
           "y = Mul(x, x)",
           "y = Mul(x, two)",
       }) {
    const auto model = model_from_text(graph_text(nodes));
    EXPECT_FALSE(activation_making(model->graph().find("y"))) << nodes;
  }
}

TEST(Activation, AnInnerValueReadElsewhereIsANearMiss) {
  const auto model = model_from_text(graph_text("z = Sigmoid(x) y = Mul(x, z)", "float[2] y, float[2] z"));
  EXPECT_FALSE(activation_making(model->graph().find("y")));
}

}  // namespace
}  // namespace onnxfold::activation_test
