#include <gtest/gtest.h>

#include "formats/onnx/schema.h"
#include "passes/registry.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test::fold_shapes_test {
namespace {

constexpr const char* kHead = "<ir_version: 8, opset_import: [\"\": 17]> ";

TEST(FoldShapes, FoldsKnownDimensions) {
  expect_rewrite("fold-shapes", std::string(kHead) + R"(g (float[N, 3, 4] x) => (float[A, B] y)
      <int64 one = {1}, int64[1] zero = {0}, int64[1] rest = {-1}> {
      s = Shape(x) d = Gather(s, one) u = Unsqueeze(d, zero) t = Concat<axis = 0>(rest, u) y = Reshape(x, t) })",
                 std::string(kHead) + R"(g (float[N, 3, 4] x) => (float[A, B] y)
      <int64[2] t = {-1, 3}> { y = Reshape(x, t) })");
}
TEST(FoldShapes, CopiesDimensionsOfTheInput) {
  expect_rewrite("fold-shapes", std::string(kHead) + R"(g (float[N, T, 12] x) => (float[A, B, C, D] y)
      <int64 i = {0}, int64 j = {1}, int64[1] z = {0}, int64[1] h = {3}, int64[1] w = {4}> {
      s = Shape(x) n = Gather(s, i) t = Gather(s, j) un = Unsqueeze(n, z) ut = Unsqueeze(t, z)
      c = Concat<axis = 0>(un, ut, h, w) y = Reshape(x, c) })",
                 std::string(kHead) + R"(g (float[N, T, 12] x) => (float[A, B, C, D] y)
      <int64[4] c = {0, 0, 3, 4}> { y = Reshape(x, c) })");
}
TEST(FoldShapes, InfersOneDimensionAmongKnownOnes) {
  expect_rewrite("fold-shapes", std::string(kHead) + R"(g (float[N, T, 12] x) => (float[A, B] y)
      <int64 i = {0}, int64 j = {1}, int64[1] z = {0}, int64[1] w = {12}> {
      s = Shape(x) n = Gather(s, i) t = Gather(s, j) m = Mul(n, t) u = Unsqueeze(m, z)
      c = Concat<axis = 0>(u, w) y = Reshape(x, c) })",
                 std::string(kHead) + R"(g (float[N, T, 12] x) => (float[A, B] y)
      <int64[2] c = {-1, 12}> { y = Reshape(x, c) })");
}
TEST(FoldShapes, ReadsDimensionsWithOneShape) {
  expect_rewrite("fold-shapes", std::string(kHead) + R"(g (float[2, N, T] x, float[1] v) => (float[A, B] y)
      <int64 i = {1}, int64 j = {2}, int64[1] z = {0}> {
      s = Shape(x) n = Gather(s, i) t = Gather(s, j) un = Unsqueeze(n, z) ut = Unsqueeze(t, z)
      c = Concat<axis = 0>(un, ut) y = Expand(v, c) })",
                 std::string(kHead) + R"(g (float[2, N, T] x, float[1] v) => (float[A, B] y) {
      c = Shape<start = 1>(x) y = Expand(v, c) })");
}
TEST(FoldShapes, ExpandToOwnDimensions) {
  expect_rewrite("fold-shapes", std::string(kHead) + R"(g (float[N, T] x) => (float[A, B] y) {
      a = Neg(x) s = Shape(x) y = Expand(a, s) })",
                 std::string(kHead) + R"(g (float[N, T] x) => (float[A, B] y) <int64[2] s = {1, 1}> {
      a = Neg(x) y = Expand(a, s) })");
}
TEST(FoldShapes, KeepsTwoUnknownDimensions) {
  expect_unchanged("fold-shapes", std::string(kHead) + R"(g (float[N, T] x, float[T, N] v) => (float[A, B] y) {
      s = Shape(v) y = Reshape(x, s) })");
}
TEST(FoldShapes, KeepsAnInferenceBesideACopy) {
  // With N = 0 the -1 of [0, -1] could not be inferred, the computed shape works: only its arithmetic gets shorter.
  expect_rewrite("fold-shapes", std::string(kHead) + R"(g (float[N, T, U] x, int64[1] k) => (float[A, B] y)
      <int64[1] z = {0}, int64 i = {0}> {
      s = Shape(x) n = Gather(s, i) un = Unsqueeze(n, z) c = Concat<axis = 0>(un, k) y = Reshape(x, c) })",
                 std::string(kHead) + R"(g (float[N, T, U] x, int64[1] k) => (float[A, B] y) {
      s = Shape<end = 1>(x) c = Concat<axis = 0>(s, k) y = Reshape(x, c) })",
                 {}, {.equivalent = false, .reason = "random data is no target shape"});
}
// TorchScript's expand(n, 16, h + 2, 1): a -1 would mean "as it is".
TEST(FoldShapes, DropsTheSearchForMinusOne) {
  const std::string body = R"(s = Shape<start = 1>(x) a = Add(s, two) c = Concat<axis = 0>(n, a, one))";
  const std::string nodes = R"( <int64[1] two = {2}, int64[1] one = {1}, int64[1] n = {3}, int64[3] ones = {1, 1, 1},
      int64[3] minus = {-1, -1, -1}, float[3, 1, 1] v = {1, 2, 3}> { )";
  expect_rewrite("fold-shapes",
                 std::string(kHead) + "g (float[2, N] x) => (float[A, B, C] y)" + nodes + body +
                     " e = Equal(c, minus) w = Where(e, ones, c) y = Expand(v, w) }",
                 std::string(kHead) + R"(g (float[2, N] x) => (float[A, B, C] y)
      <int64[1] two = {2}, int64[1] one = {1}, int64[1] n = {3}, float[3, 1, 1] v = {1, 2, 3}> { )" +
                     body + " y = Expand(v, c) }");
}
TEST(FoldShapes, JoinsWhatAWhereChooses) {  // the class token of a ViT: expand(n, -1, -1)
  expect_rewrite("fold-shapes", std::string(kHead) + R"(g (float[N, T] x) => (float[A, B, C] y)
      <int64[2] rest = {-1, -1}, int64[3] ones = {1, 1, 1}, int64[3] minus = {-1, -1, -1}, float[1, 1, 2] v = {1, 2}> {
      n = Shape<end = 1>(x) c = Concat<axis = 0>(n, rest) e = Equal(c, minus) w = Where(e, ones, c)
      y = Expand(v, w) })",
                 std::string(kHead) + R"(g (float[N, T] x) => (float[A, B, C] y)
      <int64[2] sizes = {1, 1}, float[1, 1, 2] v = {1, 2}> {
      n = Shape<end = 1>(x) w = Concat<axis = 0>(n, sizes) y = Expand(v, w) })");
}
TEST(FoldShapes, KeepsTheSearchWhereMinusOneMayBe) {
  const auto kept = [](const std::string& size) {
    expect_unchanged("fold-shapes", std::string(kHead) + R"(g (float[N] x, int64[1] k) => (float[A] y)
      <int64[1] two = {2}, int64[1] ones = {1}, int64[1] minus = {-1}, float[1] v = {1}> { s = Shape(x) )" +
                                        size + " e = Equal(c, minus) w = Where(e, ones, c) y = Expand(v, w) }");
  };
  kept("c = Sub(s, two)");  // -1 for one row
  kept("a = Neg(s) c = Add(a, two)");
  kept("c = Add(s, k)");
}
TEST(FoldShapes, KeepsGraphOutputs) {
  expect_unchanged("fold-shapes", std::string(kHead) + "g (float[2, 3] x) => (int64[2] y) { y = Shape(x) }");
}
TEST(FoldShapes, KeepsTargetsThatArriveAsInput) {
  expect_unchanged("fold-shapes",
                   std::string(kHead) + "g (float[N, T] x, int64[2] s) => (float[A, B] y) { y = Reshape(x, s) }");
}
TEST(FoldShapes, DoesNotBelieveADeclaredOutputOfAnotherRank) {
  const auto model = model_from_text(std::string(kHead) + R"(g (float[N, T] x, float[A, B] v) => (float[1, S] y)
      <int64[1] n = {-1}> { s = Shape(v) c = Concat<axis = 0>(s, n) y = Reshape(x, c) })");
  ASSERT_TRUE(infer_shapes(*model));
  PassContext context(*model, "fold-shapes");  // run_pass asks for a model whose declarations hold
  const auto changed = find_pass("fold-shapes")->make({})->run(model->graph(), context);
  ASSERT_TRUE(changed);
  EXPECT_FALSE(*changed);
}
TEST(FoldShapes, KeepsAllowZero) {
  expect_unchanged("fold-shapes", std::string(kHead) + R"(g (float[N, T] x, float[N, T] v) => (float[A, B] y) {
      s = Shape(v) y = Reshape<allowzero = 1>(x, s) })");
}
TEST(FoldShapes, KeepsUnknownRank) {
  expect_unchanged(
      "fold-shapes",
      std::string(kHead) + R"(g (float[N, T] x, int64[K] k) => (int64[1] y) <int64 i = {0}, int64[1] z = {0}> {
      v = Reshape(x, k) s = Shape(v) n = Gather(s, i) y = Unsqueeze(n, z) })");
}

}  // namespace
}  // namespace onnxfold::test::fold_shapes_test
