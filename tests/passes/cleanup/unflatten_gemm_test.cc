#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::unflatten_gemm_test {
namespace {

std::string net(const std::string& nodes, const std::string& initializers, const std::string& input = "float[2, 3, 4]",
                const std::string& output = "float[2, 3, 5]") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (" + input + " x) => (" + output + " y) <" + initializers +
         "> { " + nodes + " }";
}

const std::string kShapes = "int64[2] flat = {-1, 4}, int64[3] full = {2, 3, 5}, ";
const std::string kNodes = "f = Reshape(x, flat) g = Gemm(f, w, b) y = Reshape(g, full)";

TEST(UnflattenGemm, WithBias) {
  expect_rewrite("unflatten-gemm", net(kNodes, kShapes + "float[4, 5] w = {}, float[5] b = {}"),
                 net("m = MatMul(x, w) y = Add(m, b)", "float[4, 5] w = {}, float[5] b = {}"));
}
TEST(UnflattenGemm, WithoutBias) {
  expect_rewrite("unflatten-gemm",
                 net("f = Reshape(x, flat) g = Gemm(f, w) y = Reshape(g, full)", kShapes + "float[4, 5] w = {}"),
                 net("y = MatMul(x, w)", "float[4, 5] w = {}"));
}
TEST(UnflattenGemm, TransposedWeight) {
  expect_rewrite(
      "unflatten-gemm",
      net("f = Reshape(x, flat) g = Gemm<transB = 1>(f, w) y = Reshape(g, full)",
          kShapes + "float[5, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}"),
      net("y = MatMul(x, w)",
          "float[4, 5] w = {1, 5, 9, 13, 17, 2, 6, 10, 14, 18, 3, 7, 11, 15, 19, 4, 8, 12, 16, 20}"));
}
TEST(UnflattenGemm, KeepsOtherShapes) {
  const std::string weights = "float[4, 5] w = {}, float[5] b = {}";
  // Other leading axes, a rank of 2, a last axis that is split, rows of bias.
  expect_unchanged("unflatten-gemm", net(kNodes, "int64[2] flat = {-1, 4}, int64[3] full = {3, 2, 5}, " + weights,
                                         "float[2, 3, 4]", "float[3, 2, 5]"));
  expect_unchanged("unflatten-gemm", net(kNodes, "int64[2] flat = {-1, 4}, int64[2] full = {6, 5}, " + weights,
                                         "float[6, 4]", "float[6, 5]"));
  expect_unchanged("unflatten-gemm", net(kNodes,
                                         "int64[2] flat = {-1, 4}, int64[3] full = {2, 15, 2}, " +
                                             std::string("float[4, 5] w = {}, float[5] b = {}"),
                                         "float[2, 6, 4]", "float[2, 15, 2]"));
  expect_unchanged("unflatten-gemm", net(kNodes, kShapes + "float[4, 5] w = {}, float[6, 5] b = {}"));
}
TEST(UnflattenGemm, KeepsUnprovenAxes) {
  expect_unchanged(
      "unflatten-gemm",
      net(kNodes, "int64[2] flat = {-1, 4}, int64[3] full = {-1, 3, 5}, float[4, 5] w = {}, float[5] b = {}",
          "float[N, M, 4]", "float[A, 3, 5]"));
}
TEST(UnflattenGemm, KeepsSharedValuesAndFactors) {
  const std::string weights = kShapes + "float[4, 5] w = {}, float[5] b = {}";
  expect_unchanged("unflatten-gemm",
                   net("f = Reshape(x, flat) g = Gemm<alpha = 2.0>(f, w, b) y = Reshape(g, full)", weights));
  expect_unchanged(
      "unflatten-gemm",
      net("f = Reshape(x, flat) g = Gemm(f, w, b) r = Relu(g) s = Add(g, r) y = Reshape(s, full)", weights));
}

}  // namespace
}  // namespace onnxfold::test::unflatten_gemm_test
