#include "converter/in_double.h"

#include <gtest/gtest.h>

#include "converter/pipeline.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold {
namespace {

using test::model_from_text;

const char* const kConvs = R"(<ir_version: 8, opset_import: ["": 17]>
  g (float[2, 3, 5, 5] x) => (float[2, 4, 3, 3] y)
  <float[4, 3, 3, 3] w = {}, float[4, 1, 1] s = {}, float[4, 1, 1] b = {}> {
    c = Conv(x, w) m = Mul(c, s) y = Add(m, b) })";

Recipe folding() {
  return {"test", "", {{"fold-linear-scale", {}, {}}, {"fold-linear-bias", {}, {}}, {"remove-dead-nodes", {}, {}}}};
}

TEST(InDouble, MakesEveryFloatADouble) {
  const auto model = model_from_text(R"(<ir_version: 9, opset_import: ["": 19]>
    g (float[2] x, int64[2] n) => (float[2] y) <float[2] w = {1.5, 2.5}> {
      k = Constant<value_float = 0.5>() h = Cast<to = 10>(x) f = Cast<to = 1>(h) c = Cast<to = 6>(n)
      z = ConstantOfShape(n) a = Mul(f, w) y = Add(a, k) })");
  const auto twin = in_double(*model);
  ASSERT_TRUE(twin) << twin.error().message;
  for (const Value* value : (*twin)->graph().values()) {
    EXPECT_NE(value->dtype(), DType::kFloat32) << value->name();
    EXPECT_NE(value->dtype(), DType::kFloat16) << value->name();
  }
  EXPECT_EQ((*twin)->graph().find("c")->dtype(), DType::kInt32);
  EXPECT_EQ(*to_doubles(*(*twin)->graph().find("w")->constant()), (std::vector<double>{1.5, 2.5}));
  EXPECT_EQ(model->graph().find("w")->dtype(), DType::kFloat32);
}

TEST(InDouble, FoldedWeightsAgreeToTwelveDigits) {
  const auto before = model_from_text(kConvs);
  const auto after = before->clone();
  ASSERT_TRUE(run_pipeline(*after, folding()));
  const Dataset data = *generate_dataset(*before, 0);
  const auto error = error_in_double(*before, *after, folding(), data, {});
  ASSERT_TRUE(error) << error.error().message;
  ASSERT_TRUE(*error);
  EXPECT_LT(**error, 1e-13);
}

TEST(InDouble, SaysNothingWhenTheTwinComesOutDifferently) {
  const auto before = model_from_text(kConvs);
  const Dataset data = *generate_dataset(*before, 0);
  const auto error = error_in_double(*before, *before, folding(), data, {});
  ASSERT_TRUE(error) << error.error().message;
  EXPECT_FALSE(*error);
}

}  // namespace
}  // namespace onnxfold
