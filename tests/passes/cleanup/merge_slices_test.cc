#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::merge_slices_test {
namespace {

std::string net(const std::string& nodes, const std::string& constants, const std::string& outputs = "float[A, B] y",
                int opset = 17) {
  return "<ir_version: 8, opset_import: [\"\": " + std::to_string(opset) + "]> g (float[6, 8] x) => (" + outputs +
         ") <" + constants + "> { " + nodes + " }";
}

const std::string kTwo =
    "int64[1] o = {1}, int64[1] e = {5}, int64[1] p = {2}, int64[1] f = {-1}, int64[1] zero = {0}, "
    "int64[1] one = {1}, int64[1] back = {-1}";

TEST(MergeSlices, OnDifferentAxes) {
  const std::string after = net("y = Slice(x, s, t, a, d)",
                                "int64[2] s = {1, 2}, int64[2] t = {5, -1}, int64[2] a = {0, 1}, int64[2] d = {1, 1}");
  expect_rewrite("merge-slices", net("i = Slice(x, o, e, zero) y = Slice(i, p, f, one)", kTwo), after);
  expect_rewrite("merge-slices", net("i = Slice(x, o, e, zero) y = Slice(i, p, f, back)", kTwo), after);
}
TEST(MergeSlices, KeepsTheInnerForOthers) {
  expect_rewrite(
      "merge-slices",
      net("i = Slice(x, o, e, zero) y = Slice(i, p, f, one) z = Neg(i)", kTwo, "float[A, B] y, float[C, D] z"),
      net("y = Slice(x, s, t, a, d) i = Slice(x, o, e, zero) z = Neg(i)",
          "int64[2] s = {1, 2}, int64[2] t = {5, -1}, int64[2] a = {0, 1}, int64[2] d = {1, 1}, "
          "int64[1] o = {1}, int64[1] e = {5}, int64[1] zero = {0}",
          "float[A, B] y, float[C, D] z"));
}
TEST(MergeSlices, KeepsTheSameAxis) {
  expect_unchanged("merge-slices", net("i = Slice(x, o, e, zero) y = Slice(i, o, f, zero)", kTwo));
  expect_unchanged("merge-slices", net("i = Slice(x, o, e) y = Slice(i, o, f)", kTwo));
}
TEST(MergeSlices, KeepsComputedBounds) {
  expect_unchanged("merge-slices", net("c = Shape(x) h = Slice(c, zero, one, zero) i = Slice(x, o, h, zero) "
                                       "y = Slice(i, p, f, one)",
                                       kTwo));
}
TEST(MergeSlices, KeepsSlicesWhoseBoundsAreAttributes) {
  expect_unchanged("merge-slices",
                   "<ir_version: 4, opset_import: [\"\": 9]> g (float[6, 8] x) => (float[A, B] y) { "
                   "i = Slice <axes = [0], starts = [1], ends = [5]> (x) y = Slice <axes = [1], starts = [2], ends = "
                   "[7]> (i) }");
}

}  // namespace
}  // namespace onnxfold::test::merge_slices_test
