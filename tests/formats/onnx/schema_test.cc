// What the standard says: checks of nodes, facts about operators, function bodies.
#include "formats/onnx/schema.h"

#include <gmock/gmock.h>

#include "formats/onnx/onnx_file.h"

namespace onnxfold::schema_test {
namespace {

using testing::HasSubstr;

std::unique_ptr<Model> model_of(const std::string& text) {
  auto model = parse_model_text(R"(<ir_version: 10, opset_import: ["" : 21, "com.example" : 1]> g )" + text);
  if (!model) {
    ADD_FAILURE() << model.error().message;
    return std::make_unique<Model>();
  }
  return std::move(*model);
}

// The message; empty when the model is fine.
std::string complaint(const std::string& text) {
  const Status status = check_model(*model_of(text));
  if (status) return "";
  return status.error().message;
}

TEST(CheckModel, InputTypesFitTheSchema) {
  EXPECT_EQ(complaint("(float[2,3] a, float[3,4] b) => (float[2,4] y) { y = MatMul(a, b) }"), "");
  const std::string mixed = complaint(R"((int64[2,3] a, float[3,4] b) => (float[2,4] y) { ["mm"] y = MatMul(a, b) })");
  EXPECT_THAT(mixed, HasSubstr("node 'mm'"));
  EXPECT_THAT(mixed, HasSubstr("'a' is tensor(int64) and 'b' is tensor(float)"));
  const std::string text = complaint(R"((string[2] a) => (string[2] y) { ["r"] y = Relu(a) })");
  EXPECT_THAT(text, HasSubstr("node 'r': input 0 ('a') is tensor(string), which Relu does not take"));
}

TEST(CheckModel, FreeTypesStayFree) {
  // Variadic inputs of any type, two type variables, omitted inputs, unknown types, custom operators.
  EXPECT_EQ(complaint("(float[2] a, int64[1] s) => (float[N] y) { y = Reshape(a, s) }"), "");
  EXPECT_EQ(complaint("(float[4] a, float hi) => (float[4] y) { y = Clip(a, , hi) }"), "");
  EXPECT_EQ(complaint("(float[4] a) => (float[4] y) { u = com.example.Odd(a)  y = Add(u, a) }"), "");
  EXPECT_EQ(complaint("(bool c, int64 n, float[2] s) => (float[2] y) { "
                      "y = Loop(n, c, s) <body = b (int64 i, bool k, float[2] p) => (bool k2, float[2] q) "
                      "{ k2 = Identity(k)  q = Abs(p) }> }"),
            "");
  EXPECT_THAT(complaint("(float[2] a, double[2] b) => (float[4] y) { y = Concat<axis = 0>(a, b) }"),
              HasSubstr("Concat takes one type"));
}

TEST(CheckModel, LooksIntoSubgraphs) {
  EXPECT_THAT(complaint("(bool c, float[2] a, int64[2] b) => (float[2] y) { y = If(c) <"
                        "then_branch = t () => (float[2] p) { p = Add(a, b) }, "
                        "else_branch = e () => (float[2] q) { q = Abs(a) }> }"),
              HasSubstr("Add takes one type"));
}

TEST(CheckModel, AttributesArityAndOperators) {
  EXPECT_NE(complaint("(float[2] a) => (float[2] y) { y = Add(a) }"), "");
  EXPECT_NE(complaint("(float[2] a) => (float[2] y) { y = Relu<alpha = 1.0>(a) }"), "");
  EXPECT_THAT(complaint("(float[2] a) => (float[2] y) { y = Frobnicate(a) }"), HasSubstr("opset 21"));
}

TEST(OperatorInfo, KnowsVersionsAndBodies) {
  EXPECT_EQ(operator_info("", "Gelu", 21).since_version, 20);
  EXPECT_TRUE(operator_info("", "Gelu", 21).has_function_body);
  EXPECT_FALSE(operator_info("", "Gelu", 19).known);
  EXPECT_FALSE(operator_info("", "RandomNormal", 21).deterministic);
  EXPECT_FALSE(operator_info("com.example", "Odd", 1).known);
}

TEST(FunctionBody, PlainContextDependentAndNone) {
  const auto model =
      model_of("(float[2,3] a) => (float[2,3] y, float[2,3] z) { y = HardSwish(a)  z = Softmax(a)  r = Relu(a) }");
  const auto body_of = [&](const char* op) { return function_body(*model->graph().nodes_of(op).front()); };
  const auto swish = body_of("HardSwish");
  ASSERT_TRUE(swish) << swish.error().message;
  ASSERT_NE(*swish, nullptr);
  EXPECT_EQ((*swish)->body->nodes_of("HardSigmoid").size(), 1U);
  EXPECT_GT((*swish)->opset_imports.at(""), 0);
  const auto softmax = body_of("Softmax");
  ASSERT_TRUE(softmax && *softmax);
  EXPECT_EQ((*softmax)->body->nodes_of("ReduceMax").size(), 1U);
  EXPECT_EQ((*softmax)->body->outputs().size(), 1U);
}

TEST(FunctionBody, AnOperatorWithoutOneHasNone) {
  const auto model = model_of("(float[2,3] a, float[3,2] b) => (float[2,2] y) { y = MatMul(a, b) }");
  const auto body = function_body(*model->graph().nodes_of("MatMul").front());
  ASSERT_TRUE(body);
  EXPECT_EQ(*body, nullptr);
}

}  // namespace
}  // namespace onnxfold::schema_test
