#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::expand_linear_test {
namespace {

std::string net(const std::string& nodes, const std::string& inputs, const std::string& output,
                const std::string& initializers = "float k = {0.5}") {
  return "<ir_version: 10, opset_import: [\"\" : 17, \"com.microsoft\" : 1]> g (" + inputs + ") => (" + output + ") <" +
         initializers + "> { " + nodes + " }";
}

TEST(ExpandLinear, FusedMatMul) {
  const std::string inputs = "float[2, 3, 4] a, float[2, 5, 4] b", output = "float[2, 3, 5] y";
  expect_rewrite("expand-linear", net("y = com.microsoft.FusedMatMul<transB = 1, alpha = 0.5>(a, b)", inputs, output),
                 net("t = Transpose<perm = [0, 2, 1]>(b) m = MatMul(a, t) y = Mul(m, k)", inputs, output));
  expect_rewrite(
      "expand-linear",
      net("y = com.microsoft.FusedMatMul<transA = 1>(a, b)", "float[4, 3] a, float[4, 5] b", "float[3, 5] y"),
      net("t = Transpose<perm = [1, 0]>(a) y = MatMul(t, b)", "float[4, 3] a, float[4, 5] b", "float[3, 5] y"));
}
TEST(ExpandLinear, FusedGemm) {
  const std::string inputs = "float[3, 4] a, float[5, 4] b, float[5] c", output = "float[3, 5] y";
  expect_rewrite(
      "expand-linear",
      net("y = com.microsoft.FusedGemm<transB = 1, alpha = 0.5, activation = \"Relu\">(a, b, c)", inputs, output),
      net("g = Gemm<transB = 1, alpha = 0.5>(a, b, c) y = Relu(g)", inputs, output));
  expect_rewrite(
      "expand-linear",
      net("y = com.microsoft.FusedGemm<transB = 1, activation = \"LeakyRelu\", activation_alpha = 0.25>(a, b, c)",
          inputs, output),
      net("g = Gemm<transB = 1>(a, b, c) y = LeakyRelu<alpha = 0.25>(g)", inputs, output));
}
TEST(ExpandLinear, FusedConv) {
  const std::string inputs = "float[1, 2, 5, 5] x, float[3, 2, 3, 3] w, float[3] b, float[1, 3, 3, 3] z";
  const std::string output = "float[1, 3, 3, 3] y";
  expect_rewrite(
      "expand-linear",
      net("y = com.microsoft.FusedConv<kernel_shape = [3, 3], activation = \"Relu\">(x, w, b, z)", inputs, output),
      net("c = Conv<kernel_shape = [3, 3]>(x, w, b) s = Add(c, z) y = Relu(s)", inputs, output));
  expect_rewrite(
      "expand-linear",
      net("y = com.microsoft.FusedConv<activation = \"Clip\", activation_params = [0.0, 6.0]>(x, w)", inputs, output),
      net("c = Conv(x, w) y = Clip(c, zero, six)", inputs, output, "float zero = {0}, float six = {6}"));
}
TEST(ExpandLinear, KeepsWhatItDoesNotKnow) {
  expect_unchanged("expand-linear", net("y = com.microsoft.FusedMatMul<transBatchA = 1>(a, b)",
                                        "float[2, 3, 4] a, float[3, 4, 5] b", "float[3, 2, 5] y"));
}

}  // namespace
}  // namespace onnxfold::test::expand_linear_test
