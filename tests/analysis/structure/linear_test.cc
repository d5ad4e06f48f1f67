#include "analysis/structure/linear.h"

#include <gtest/gtest.h>

#include "ir/verify.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::linear_test {
namespace {

using test::model_from_text;

constexpr const char* kMatMulAdd = R"(<ir_version: 8, opset_import: ["" : 17]>
  g (float[2, 3] x) => (float[2, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[2] b = {7, 8}>
  { p = MatMul(x, w)  y = Add(b, p) })";

constexpr const char* kGemm = R"(<ir_version: 8, opset_import: ["" : 17]>
  g (float[2, 3] x) => (float[2, 2] y) <float[2, 3] w = {1, 3, 5, 2, 4, 6}, float[2] b = {7, 8}>
  { y = Gemm <transB = 1, alpha = 2.0, beta = 0.5> (x, w, b) })";

constexpr const char* kTransposed = R"(<ir_version: 8, opset_import: ["" : 17]>
  g (float[2, 3] x) => (float[2, 2] y) <float[2, 3] w = {1, 3, 5, 2, 4, 6}>
  { t = Transpose <perm = [1, 0]> (w)  y = MatMul(x, t) })";

TEST(Linear, ReadsMatMulAndAddInEitherOrder) {
  const auto model = model_from_text(kMatMulAdd);
  const auto linears = find_linears(model->graph());
  ASSERT_EQ(linears.size(), 1U);
  EXPECT_EQ(linears[0].in, 3);
  EXPECT_EQ(linears[0].out, 2);
  EXPECT_EQ(linears[0].output->name(), "y");
  EXPECT_EQ(weight_matrix(linears[0])->data, (std::vector<double>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(*bias_vector(linears[0]), (std::vector<double>{7, 8}));
}

TEST(Linear, EverySpellingGivesTheSameWeight) {
  const auto gemm = model_from_text(kGemm);
  const Linear linear = find_linears(gemm->graph()).at(0);
  EXPECT_EQ(weight_matrix(linear)->data, (std::vector<double>{2, 4, 6, 8, 10, 12}));
  EXPECT_EQ(*bias_vector(linear), (std::vector<double>{3.5, 4}));
  const auto transposed = model_from_text(kTransposed);
  const Linear other = find_linears(transposed->graph()).at(0);
  EXPECT_EQ(weight_matrix(other)->data, (std::vector<double>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(*bias_vector(other), (std::vector<double>{0, 0}));
}

TEST(Linear, ReplacingKeepsTheSpellingAndTheInterface) {
  for (const char* text : {kMatMulAdd, kGemm, kTransposed}) {
    const auto model = model_from_text(text);
    const Linear linear = find_linears(model->graph()).at(0);
    const Matrix weight{3, 2, {1, 0, 0, 1, 1, 1}};
    const std::vector<double> bias = {0.5, 0.25};
    const auto replaced = replace_linear(model->graph(), linear, weight, &bias);
    ASSERT_TRUE(replaced);
    ASSERT_TRUE(verify(*model)) << verify(*model).error().message;
    EXPECT_EQ(weight_matrix(*replaced)->data, weight.data);
    EXPECT_EQ(*bias_vector(*replaced), bias);
    EXPECT_EQ(model->graph().outputs()[0]->name(), "y");
    EXPECT_EQ(replaced->product->op_type(), linear.product->op_type());
  }
}

TEST(Linear, ASharedProductHasNoBias) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
    g (float[2, 3] x) => (float[2, 2] y, float[2, 2] p) <float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[2] b = {7, 8}>
    { p = MatMul(x, w)  y = Add(p, b) })");
  const Linear linear = find_linears(model->graph()).at(0);
  EXPECT_EQ(linear.bias, nullptr);
  EXPECT_EQ(linear.output->name(), "p");
}

TEST(Linear, NearMisses) {
  for (const char* text : {
           R"(<ir_version: 8, opset_import: ["" : 17]> g (float[2, 3] x, float[3, 2] w) => (float[2, 2] y)
              { y = MatMul(x, w) })",                                                // not constant
           R"(<ir_version: 8, opset_import: ["" : 17]> g (float[3, 2] x) => (float[3, 2] y)
              <float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> { y = MatMul(w, x) })",  // weight on the left
           R"(<ir_version: 8, opset_import: ["" : 17]> g (float[1, 2, 3] x) => (float[1, 2, 2] y)
              <float[1, 3, 2] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) })",        // a batch of weights
           R"(<ir_version: 8, opset_import: ["" : 17]> g (float[3, 2] x) => (float[2, 2] y)
              <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = Gemm <transA = 1> (x, w) })",
       }) {
    EXPECT_TRUE(find_linears(model_from_text(text)->graph()).empty()) << text;
  }
}

TEST(Linear, ARowWiseAddIsNoBias) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
    g (float[2, 3] x) => (float[2, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[2, 1] b = {7, 8}>
    { p = MatMul(x, w)  y = Add(p, b) })");
  EXPECT_EQ(find_linears(model->graph()).at(0).bias, nullptr);
}

TEST(LinearMaking, FindsItThroughTheBias) {
  const auto model = model_from_text(kMatMulAdd);
  EXPECT_TRUE(linear_making(model->graph().find("y"))->bias);
  EXPECT_FALSE(linear_making(model->graph().find("p"))->bias);
  EXPECT_FALSE(linear_making(model->graph().find("x")));
}

}  // namespace
}  // namespace onnxfold::linear_test
