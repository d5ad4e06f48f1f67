#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::fold_output_affine_test {
namespace {

const std::string kPass = "fold-output-affine";
const std::string kNorm =
    ", double[4] g = {1, 2, -1, 0.5}, double[4] h = {}, double[4] m = {}, double[4] v = {1, 4, 0.5, 2}";
const std::string kBatch = "n = BatchNormalization(f, g, h, m, v) ";

std::string net(const std::string& nodes, const std::string& more = "", const std::string& input = "double[N, 6, 3]",
                const std::string& output = "double[A, B, C] y") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (" + input + " x) => (" + output + ") <double[3, 4] w = {}" +
         kNorm + more + "> { " + nodes + " }";
}
void expect_kept(const std::string& nodes, const std::string& more = "", const std::string& input = "double[N, 6, 3]",
                 const std::string& output = "double[A, B, C] y") {
  expect_unchanged(kPass, net(nodes, more, input, output));
}
const std::string kBack = ", int64[3] s = {-1, 6, 4}";

TEST(FoldOutputAffine, RowsOfAProduct) {  // LeViT
  expect_operators(kPass, net("p = MatMul(x, w) f = Flatten<axis = 2>(p) " + kBatch + "y = Reshape(n, s)", kBack),
                   "MatMul Add Flatten Reshape");
  expect_operators(kPass,
                   net("p = MatMul(x, w) a = Add(p, b) f = Reshape(a, t) " + kBatch + "y = Reshape(n, s)",
                       kBack + ", int64[2] t = {-1, 4}, double[4] b = {}"),
                   "MatMul Add Reshape Reshape");
}
TEST(FoldOutputAffine, ChannelsMovedToAxisOne) {
  const std::string moved = "p = MatMul(x, w) f = Transpose<perm = [0, 2, 1]>(p) ";
  expect_operators(kPass, net(moved + kBatch + "y = Relu(n)"), "MatMul Add Transpose Relu");
  expect_operators(kPass, net(moved + "n = Mul(f, k) y = Relu(n)", ", double[4, 1] k = {}"), "MatMul Transpose Relu");
  expect_operators(kPass,
                   net("p = Gemm(x, w, b) " + std::string("f = Identity(p) ") + kBatch + "y = Unsqueeze(n, o)",
                       ", double[4] b = {}, int64[1] o = {0}", "double[N, 3]"),
                   "Gemm Identity Unsqueeze");
  expect_operators(kPass,
                   net("p = MatMul(x, w) f = ReduceMean<axes = [1], keepdims = 0>(p) " + kBatch + "y = Relu(n)", "",
                       "double[N, 6, 3]", "double[A, B] y"),
                   "MatMul Add ReduceMean Relu");
}
TEST(FoldOutputAffine, Numbers) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 1] x) => (float[A, B, C] y)
      <float[1, 2] w = {1, 2}, float[2, 1] k = {3, 5}> {
      p = MatMul(x, w) f = Transpose<perm = [0, 2, 1]>(p) y = Mul(f, k) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 1] x) => (float[A, B, C] y)
      <float[1, 2] w = {3, 10}> { p = MatMul(x, w) y = Transpose<perm = [0, 2, 1]>(p) })");
}

TEST(FoldOutputAffine, KeepsAnAdditionWithoutABias) {
  expect_kept("p = MatMul(x, w) f = Transpose<perm = [0, 2, 1]>(p) n = Add(f, k) y = Relu(n)", ", double[4, 1] k = {}");
}
TEST(FoldOutputAffine, KeepsNumbersOfOtherAxes) {
  expect_kept("f = MatMul(x, w) " + kBatch + "y = Relu(n)", "", "double[N, 4, 3]");  // positions are normalized
  expect_kept("p = MatMul(x, w) f = Reshape(p, s) " + kBatch + "y = Relu(n)", ", int64[3] s = {-1, 4, 6}");
  expect_kept("p = MatMul(x, w) f = Reshape(p, s) " + kBatch + "y = Relu(n)", ", int64[3] s = {-1, 4, 4}",
              "double[2, 4, 3]");
  expect_kept("p = MatMul(x, w) q = Relu(p) f = Transpose<perm = [0, 2, 1]>(q) " + kBatch + "y = Relu(n)");
}
TEST(FoldOutputAffine, KeepsWhatIsReadElsewhere) {
  const std::string moved = "p = MatMul(x, w) f = Transpose<perm = [0, 2, 1]>(p) ";
  expect_kept(moved + kBatch + "y = Add(n, f)");
  expect_kept(moved + kBatch + "y = Relu(n) z = Relu(p)", "", "double[N, 6, 3]",
              "double[A, B, C] y, double[D, E, F] z");
  expect_kept(moved + kBatch + "y = Relu(n)", "", "double[N, 6, 3]", "double[A, B, C] y, double[D, E, F] p");
}
TEST(FoldOutputAffine, KeepsVariableWeights) {
  expect_unchanged(kPass,
                   "<ir_version: 8, opset_import: [\"\": 17]> g (double[N, 6, 3] x, double[3, 4] w) => "
                   "(double[A, B, C] y) <double[4, 1] k = {}> { p = MatMul(x, w) "
                   "f = Transpose<perm = [0, 2, 1]>(p) y = Mul(f, k) }");
}

}  // namespace
}  // namespace onnxfold::test::fold_output_affine_test
