#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::merge_reshapes_test {
namespace {

std::string net(const std::string& nodes, const std::string& initializers,
                const std::string& output = "float[A, B] y") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, 3, 4] x) => (" + output + ") <" + initializers +
         "> { " + nodes + " }";
}
const std::string kRank3 = "float[A, B, C] y";

TEST(MergeReshapes, TakesTheLastTarget) {
  expect_rewrite("merge-reshapes",
                 net("a = Reshape(x, s) b = Reshape(a, t) y = Relu(b)", "int64[1] s = {-1}, int64[2] t = {-1, 6}"),
                 net("b = Reshape(x, t) y = Relu(b)", "int64[2] t = {-1, 6}"));
}
TEST(MergeReshapes, RewritesCopiedDimensions) {
  expect_rewrite(
      "merge-reshapes",
      net("a = Reshape(x, s) b = Reshape(a, t) y = Relu(b)", "int64[2] s = {0, 12}, int64[3] t = {0, 0, 1}", kRank3),
      net("b = Reshape(x, t) y = Relu(b)", "int64[3] t = {0, 12, 1}", kRank3));
}
TEST(MergeReshapes, MergesFlattenSqueezeUnsqueeze) {
  expect_rewrite("merge-reshapes", net("a = Unsqueeze(x, s) b = Flatten(a) y = Relu(b)", "int64[1] s = {1}"),
                 net("b = Reshape(x, t) y = Relu(b)", "int64[2] t = {0, 12}"));
  expect_rewrite("merge-reshapes", net("a = Flatten(x) b = Unsqueeze(a, s) y = Relu(b)", "int64[1] s = {0}", kRank3),
                 net("b = Reshape(x, t) y = Relu(b)", "int64[3] t = {1, -1, 12}", kRank3));
}
TEST(MergeReshapes, CancelsAPair) {
  expect_rewrite("merge-reshapes",
                 net("n = Neg(x) a = Unsqueeze(n, s) b = Squeeze(a, s) y = Relu(b)", "int64[1] s = {1}", kRank3),
                 net("n = Neg(x) y = Relu(n)", "", kRank3));
  expect_rewrite("merge-reshapes",
                 net("n = Neg(x) a = Reshape(n, s) b = Reshape(a, t) y = Relu(b)",
                     "int64[1] s = {-1}, int64[3] t = {-1, 3, 4}", kRank3),
                 net("n = Neg(x) y = Relu(n)", "", kRank3));
}
TEST(MergeReshapes, UnitesAxes) {
  expect_rewrite("merge-reshapes", R"(<ir_version: 8, opset_import: ["": 17]> g (float[A, B] x) => (float[C, D, E, F] y)
      <int64[1] s = {1}, int64[1] t = {0}> { a = Unsqueeze(x, s) b = Unsqueeze(a, t) y = Relu(b) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[A, B] x) => (float[C, D, E, F] y)
      <int64[2] s = {0, 2}> { b = Unsqueeze(x, s) y = Relu(b) })");
  expect_rewrite("merge-reshapes", R"(<ir_version: 8, opset_import: ["": 11]> g (float[A, 1, B, 1] x) => (float[C, D] y)
      { a = Squeeze<axes = [1]>(x) b = Squeeze<axes = [2]>(a) y = Relu(b) })",
                 R"(<ir_version: 8, opset_import: ["": 11]> g (float[A, 1, B, 1] x) => (float[C, D] y)
      { b = Squeeze<axes = [1, 3]>(x) y = Relu(b) })");
}
TEST(MergeReshapes, KeepsWhenTheInnerHasAnotherReader) {
  expect_unchanged("merge-reshapes", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3, 4] x) => (float[A, B] y, float[C] z) <int64[1] s = {-1}, int64[2] t = {-1, 6}> {
      a = Reshape(x, s) b = Reshape(a, t) y = Relu(b) z = Neg(a) })");
}
TEST(MergeReshapes, KeepsWhenTheInnerIsPublic) {
  expect_unchanged("merge-reshapes", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3, 4] x) => (float[A, B] y, float[C] a) <int64[1] s = {-1}, int64[2] t = {-1, 6}> {
      a = Reshape(x, s) b = Reshape(a, t) y = Relu(b) })");
}
TEST(MergeReshapes, KeepsUnknownCopies) {
  expect_unchanged("merge-reshapes", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, M] x, int64[3] s) => (float[A, B] y) <int64[2] t = {0, -1}> {
      a = Reshape(x, s) b = Reshape(a, t) y = Relu(b) })");
}
TEST(MergeReshapes, KeepsAllowZero) {
  expect_unchanged("merge-reshapes", net("a = Reshape(x, s) b = Reshape<allowzero = 1>(a, t) y = Relu(b)",
                                         "int64[1] s = {-1}, int64[2] t = {-1, 6}"));
}

}  // namespace
}  // namespace onnxfold::test::merge_reshapes_test
