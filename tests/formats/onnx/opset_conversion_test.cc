#include <gtest/gtest.h>

#include "formats/onnx/schema.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::opset_conversion_test {
namespace {

constexpr const char* kSqueezing = R"(<ir_version: 7, opset_import: ["" : 11]>
g (float[1,2,3] x) => (float[2,4] y) <float[3,4] w = {}> { s = Squeeze<axes = [0]>(x) y = MatMul(s, w) })";

TEST(ConvertOpset, MovesAttributesToInputsAndKeepsTheNumbers) {
  const auto before = test::model_from_text(kSqueezing);
  const auto after = before->clone();
  const auto done = convert_opset(*after, 21);
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(after->graph().opset(), 21);
  EXPECT_EQ(test::difference(*before, *after, Precision::kFloat64, 0), "");
}

TEST(ConvertOpset, LargeWeightsComeThroughUntouched) {
  const auto before = test::model_from_text(R"(<ir_version: 7, opset_import: ["" : 11]>
      g (float[2,64] x) => (float[2,64] y) <float[64,64] w = {}> { y = MatMul(x, w) })");
  const auto after = before->clone();
  ASSERT_TRUE(convert_opset(*after, 20));
  EXPECT_EQ(test::difference(*before, *after, Precision::kFloat64, 0), "");
}

// What ONNX Runtime's optimizer writes into the standard's domain, and beside it.
TEST(ConvertOpset, OperatorsThatTheStandardDoesNotKnowStay) {
  const auto before = test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
      g (float[2,8] x, bool c) => (float[2,8] y) <float[8] w = {}> {
        n = SimplifiedLayerNormalization <axis = -1, stash_type = 1> (x, w)
        m = If (c) <then_branch = t () => (float[2,8] a) { a = SimplifiedLayerNormalization (n, w) },
                    else_branch = e () => (float[2,8] b) { b = com.microsoft.Gelu (n) }>
        y = Add(n, m) })");
  const auto after = before->clone();
  const auto done = convert_opset(*after, 21);
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(after->graph().opset(), 21);
  const auto norms = after->graph().nodes_of("SimplifiedLayerNormalization");
  ASSERT_EQ(norms.size(), 1U);
  EXPECT_EQ(norms[0]->domain(), "");
  EXPECT_EQ(after->opset_imports.count("onnxfold.aside"), 0U);
  EXPECT_EQ(test::difference(*before, *after, Precision::kFloat64, 0), "");
}

TEST(ConvertOpset, TheSameOpsetChangesNothing) {
  const auto model = test::model_from_text(kSqueezing);
  ASSERT_TRUE(convert_opset(*model, 11));
  EXPECT_EQ(model->graph().opset(), 11);
}

TEST(ConvertOpset, RefusesToLowerAndUnknownVersions) {
  const auto model = test::model_from_text(kSqueezing);
  EXPECT_EQ(convert_opset(*model, 9).error().code, Code::kUnsupported);
  EXPECT_EQ(convert_opset(*model, 9999).error().code, Code::kInvalidArgument);
  EXPECT_EQ(convert_opset(*model, 0).error().code, Code::kInvalidArgument);
  EXPECT_EQ(model->graph().opset(), 11);
}

}  // namespace
}  // namespace onnxfold::opset_conversion_test
