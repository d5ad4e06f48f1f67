#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::fold_batch_normalization_test {
namespace {

std::string net(const std::string& type, const std::string& nodes, const std::string& initializers) {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (" + type + " x) => (float[A, B, C, D] y) <" + initializers +
         "> { " + nodes + " }";
}
const std::string kParameters =
    ", float[2] g = {2, 4}, float[2] h = {1, 0}, float[2] m = {3, -1}, float[2] v = {4, 16}";

TEST(FoldBatchNormalization, IntoConv) {
  expect_rewrite(
      "fold-batch-normalization",
      net("float[N, 1, 4, 4]", "c = Conv(x, w, b) y = BatchNormalization<epsilon = 0.0>(c, g, h, m, v)",
          "float[2, 1, 1, 2] w = {1, 2, 3, 4}, float[2] b = {5, 7}" + kParameters),
      net("float[N, 1, 4, 4]", "y = Conv(x, w, b)", "float[2, 1, 1, 2] w = {1, 2, 3, 4}, float[2] b = {3, 8}"));
}
TEST(FoldBatchNormalization, IntoConvWithoutBias) {
  expect_rewrite("fold-batch-normalization",
                 net("float[N, 1, 4, 4]", "c = Conv(x, w) y = BatchNormalization<epsilon = 0.0>(c, g, h, m, v)",
                     "float[2, 1, 1, 1] w = {1, 2}, float[2] g = {4, 4}, float[2] h = {1, 0}, float[2] m = {3, -1}, "
                     "float[2] v = {4, 16}"),
                 net("float[N, 1, 4, 4]", "y = Conv(x, w, b)", "float[2, 1, 1, 1] w = {2, 2}, float[2] b = {-5, 1}"));
}
TEST(FoldBatchNormalization, IntoConvTransposeInGroups) {
  expect_rewrite("fold-batch-normalization",
                 net("float[N, 2, 4, 4]",
                     "c = ConvTranspose<group = 2>(x, w) y = BatchNormalization<epsilon = 0.0>(c, g, h, m, v)",
                     "float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[4] g = {1, 2, 3, 4}, float[4] h = {0, 0, 0, 1}, "
                     "float[4] m = {0, 0, 0, 1}, float[4] v = {1, 1, 1, 4}"),
                 net("float[N, 2, 4, 4]", "y = ConvTranspose<group = 2>(x, w, b)",
                     "float[2, 2, 1, 1] w = {1, 4, 9, 8}, float[4] b = {0, 0, 0, -1}"));
}
TEST(FoldBatchNormalization, IntoGemm) {
  expect_rewrite("fold-batch-normalization",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 1] x) => (float[N, 2] y)
      <float[2, 1] w = {1, 2}, float[2] b = {1, 1}, float[2] g = {2, 2}, float[2] h = {0, 1}, float[2] m = {1, 2}, float[2] v = {1, 4}> {
      c = Gemm<transB = 1, beta = 2.0>(x, w, b) y = BatchNormalization<epsilon = 0.0>(c, g, h, m, v) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 1] x) => (float[N, 2] y)
      <float[2, 1] w = {2, 2}, float[2] b = {2, 1}> { y = Gemm<transB = 1>(x, w, b) })");
}
TEST(FoldBatchNormalization, KeepsWhenTheResultIsReadTwice) {
  expect_unchanged("fold-batch-normalization",
                   net("float[N, 1, 4, 4]", "c = Conv(x, w) d = BatchNormalization(c, g, h, m, v) y = Add(c, d)",
                       "float[2, 1, 1, 1] w = {1, 2}" + kParameters));
}
TEST(FoldBatchNormalization, KeepsWhenTheWeightIsReadTwice) {
  expect_unchanged(
      "fold-batch-normalization",
      net("float[N, 1, 4, 4]", "c = Conv(x, w) e = Conv(x, w) d = BatchNormalization(c, g, h, m, v) y = Add(e, d)",
          "float[2, 1, 1, 1] w = {1, 2}" + kParameters));
}
TEST(FoldBatchNormalization, KeepsVariableParameters) {
  expect_unchanged("fold-batch-normalization", R"(<ir_version: 8, opset_import: ["": 17]>
      g (float[N, 1, 4, 4] x, float[2] g) => (float[A, B, C, D] y)
      <float[2, 1, 1, 1] w = {1, 2}, float[2] h = {1, 0}, float[2] m = {3, -1}, float[2] v = {4, 16}> {
      c = Conv(x, w) y = BatchNormalization(c, g, h, m, v) })");
}
TEST(FoldBatchNormalization, KeepsTraining) {
  expect_unchanged("fold-batch-normalization", R"(<ir_version: 8, opset_import: ["": 17]>
      g (float[N, 1, 4, 4] x) => (float[A, B, C, D] y)
      <float[2, 1, 1, 1] w = {1, 2}, float[2] g = {1, 1}, float[2] h = {1, 0}, float[2] m = {3, -1}, float[2] v = {4, 16}> {
      c = Conv(x, w) y, rm, rv = BatchNormalization<training_mode = 1>(c, g, h, m, v) })");
}
TEST(FoldBatchNormalization, KeepsNegativeVariance) {
  expect_unchanged("fold-batch-normalization",
                   net("float[N, 1, 4, 4]", "c = Conv(x, w) y = BatchNormalization(c, g, h, m, v)",
                       "float[2, 1, 1, 1] w = {1, 2}, float[2] g = {1, 1}, float[2] h = {1, 0}, float[2] m = {3, -1}, "
                       "float[2] v = {-4, 16}"));
}
TEST(FoldBatchNormalization, KeepsWithoutALinearBefore) {
  expect_unchanged(
      "fold-batch-normalization",
      net("float[N, 2, 4, 4]", "c = Relu(x) y = BatchNormalization(c, g, h, m, v)", kParameters.substr(2)));
}

}  // namespace
}  // namespace onnxfold::test::fold_batch_normalization_test
