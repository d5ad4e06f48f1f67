#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::fuse_pad_test {
namespace {

std::string net(const std::string& nodes, const std::string& initializers) {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, 2, 5, 5] x) => (float[A, B, C, D] y) <" + initializers +
         "> { " + nodes + " }";
}
const std::string kWeight = ", float[3, 2, 3, 3] w = {}";

TEST(FusePad, IntoConv) {
  expect_rewrite(
      "fuse-pad",
      net("p = Pad(x, s) y = Conv<pads = [1, 1, 1, 1]>(p, w)", "int64[8] s = {0, 0, 1, 0, 0, 0, 2, 1}" + kWeight),
      net("y = Conv<pads = [2, 1, 3, 2]>(x, w)", kWeight.substr(2)));
}
TEST(FusePad, IntoAveragePool) {
  expect_rewrite(
      "fuse-pad",
      net("p = Pad(x, s) y = AveragePool<kernel_shape = [3, 3]>(p)", "int64[8] s = {0, 0, 1, 1, 0, 0, 1, 1}"),
      net("y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x)", ""));
}
TEST(FusePad, KeepsOtherAxesValuesAndModes) {
  expect_unchanged("fuse-pad", net("p = Pad(x, s) y = Conv(p, w)", "int64[8] s = {1, 0, 0, 0, 0, 0, 0, 0}" + kWeight));
  expect_unchanged("fuse-pad", net("p = Pad(x, s, v) y = Conv(p, w)",
                                   "int64[8] s = {0, 0, 1, 0, 0, 0, 0, 0}, float v = {1}" + kWeight));
  expect_unchanged("fuse-pad", net("p = Pad<mode = \"reflect\">(x, s) y = Conv(p, w)",
                                   "int64[8] s = {0, 0, 1, 0, 0, 0, 0, 0}" + kWeight));
  expect_unchanged("fuse-pad", net("p = Pad(x, s) y = Conv(p, w)", "int64[8] s = {0, 0, -1, 0, 0, 0, 0, 0}" + kWeight));
}
TEST(FusePad, KeepsAutomaticPads) {
  expect_unchanged("fuse-pad", net("p = Pad(x, s) y = Conv<auto_pad = \"SAME_UPPER\">(p, w)",
                                   "int64[8] s = {0, 0, 1, 0, 0, 0, 0, 0}" + kWeight));
}
TEST(FusePad, KeepsSharedPads) {
  expect_unchanged("fuse-pad", net("p = Pad(x, s) a = Conv(p, w) b = Conv(p, w) y = Add(a, b)",
                                   "int64[8] s = {0, 0, 1, 0, 0, 0, 0, 0}" + kWeight));
}
TEST(FusePad, KeepsPoolsThatDoNotCountTheirPads) {
  expect_unchanged("fuse-pad", net("p = Pad(x, s) y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(p)",
                                   "int64[8] s = {0, 0, 1, 1, 0, 0, 1, 1}"));
  expect_unchanged("fuse-pad",
                   net("p = Pad(x, s) y = AveragePool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(p)",
                       "int64[8] s = {0, 0, 1, 1, 0, 0, 1, 1}"));
  expect_unchanged("fuse-pad", net("p = Pad(x, s) y = AveragePool<kernel_shape = [1, 1]>(p)",
                                   "int64[8] s = {0, 0, 1, 1, 0, 0, 1, 1}"));
}
TEST(FusePad, KeepsMaxPool) {
  expect_unchanged("fuse-pad",
                   net("p = Pad(x, s) y = MaxPool<kernel_shape = [3, 3]>(p)", "int64[8] s = {0, 0, 1, 1, 0, 0, 1, 1}"));
}

}  // namespace
}  // namespace onnxfold::test::fuse_pad_test
