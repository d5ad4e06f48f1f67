#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::fold_channel_border_test {
namespace {

const std::string kPass = "fold-channel-border";
const std::string kConv = "c = Conv(x, w, b) ";
const std::string kWeights =
    "double[3, 2, 1, 1] w = {}, double[3] b = {1, -2, 3}, double[1, 3, 1, 1] v = {1, -2, 3}, double[4, 3, 3, 3] k = {}";
const std::string kPadded = kConv + "p = Pad(c, pads) ";
const std::string kPads = ", int64[8] pads = {0, 0, 1, 2, 0, 0, 1, 1}";
const std::string kPad1 = ", int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}";

std::string net(const std::string& nodes, const std::string& initializers, const std::string& input = "2, 2, 4, 5",
                const std::string& outputs = "double[A, B, C, D] y") {
  return "<ir_version: 9, opset_import: [\"\": 18]> g (double[" + input + "] x) => (" + outputs + ") <" + kWeights +
         initializers + "> { " + nodes + " }";
}
void expect_kept(const std::string& nodes, const std::string& initializers, const std::string& input = "2, 2, 4, 5",
                 const std::string& outputs = "double[A, B, C, D] y") {
  expect_unchanged(kPass, net(nodes, initializers, input, outputs));
}

// Rows above, below, left and right, each a constant for a map of 4 x 5 and two images.
std::string rows(const std::string& name, const std::string& shape, const std::string& channels = "1,-2,3",
                 int width = 5, int images = 2) {
  std::string numbers;
  for (int image = 0; image < images; ++image) {
    for (std::size_t at = 0; at <= channels.size();) {
      const std::size_t end = std::min(channels.find(',', at), channels.size());
      for (int i = 0; i < width; ++i) numbers += (numbers.empty() ? "" : ", ") + channels.substr(at, end - at);
      at = end + 1;
    }
  }
  return ", double[" + shape + "] " + name + " = {" + numbers + "}";
}
const std::string kConcat = "d = Concat<axis = 2>(t, c, t) e = Concat<axis = -1>(s, d, s) y = Conv(e, k)";

TEST(FoldChannelBorder, ConcatWithConstants) {
  expect_operators(kPass, net(kConv + kConcat, rows("t", "2, 3, 1, 5") + rows("s", "2, 3, 6, 1", "1,-2,3", 6)),
                   "Conv Conv");
}
TEST(FoldChannelBorder, BorderOnOneSide) {
  expect_rewrite(kPass, R"(<ir_version: 8, opset_import: ["": 17]> g (float[1, 1, 2, 2] x) => (float[1, 2, 3, 2] y)
      <float[2, 1, 1, 1] w = {1, 2}, float[2] b = {3, 4}, float[1, 2, 1, 2] t = {3, 3, 4, 4}> {
      c = Conv(x, w, b) y = Concat<axis = 2>(c, t) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (float[1, 1, 2, 2] x) => (float[1, 2, 3, 2] y)
      <float[2, 1, 1, 1] w = {1, 2}, float[2] b = {3, 4}> {
      y = Conv<kernel_shape = [1, 1], pads = [0, 0, 1, 0]>(x, w, b) })");
}
// Sizes known only when it runs.
TEST(FoldChannelBorder, ConcatWithExpandedNumbers) {
  const std::string nodes = kConv +
                            "n = Shape<end = 1>(c) m = Shape<start = 3>(c) h = Shape<start = 2, end = 3>(c) "
                            "l = Concat<axis = 0>(n, three, one, m) t = Expand(v, l) "
                            "g = Add(h, two) r = Concat<axis = 0>(n, three, g, one) s = Expand(v, r) " +
                            kConcat;
  expect_operators(kPass, net(nodes, ", int64[1] three = {3}, int64[1] one = {1}, int64[1] two = {2}", "N, 2, H, W"),
                   "Conv Conv");
}
// torch.export of `x[:, :, 0, :] = v` and so on: the axis comes first, rows are written by number.
TEST(FoldChannelBorder, RowsWrittenByNumber) {
  const std::string nodes =
      kPadded +
      "a = Transpose<perm = [2, 1, 0, 3]>(p) e = ScatterND(a, first, u) f = ScatterND(e, last, u) "
      "i = Transpose<perm = [3, 1, 2, 0]>(f) j = ScatterND<reduction = \"none\">(i, sides, q) "
      "o = Transpose<perm = [2, 1, 3, 0]>(j) y = Conv(o, k)";
  const std::string numbers = ", int64[1, 1] first = {0}, int64[1, 1] last = {-1}, int64[3, 1] sides = {0, 7, 1}" +
                              rows("u", "1, 3, 2, 8", "1,-2,3", 16, 1) + rows("q", "3, 3, 2, 6", "1,-2,3", 12, 3);
  expect_operators(kPass, net(nodes, numbers + kPads), "Conv Conv");
}
const std::string kScatterRange =
    "l = Shape(p) r = Gather(l, second) range = Range(zero, r, step) s = Slice(range, from, to) i = Unsqueeze(s, axes) "
    "a = Transpose<perm = [2, 1, 0, 3]>(p) n = Shape<end = 1>(x) m = Shape<start = 3>(p) "
    "g = Concat<axis = 0>(count, three, n, m) z = Transpose<perm = [2, 1, 0, 3]>(v) u = Expand(z, g) "
    "e = ScatterND(a, i, u) o = Transpose<perm = [2, 1, 0, 3]>(e) y = Conv(o, k)";
std::string range_numbers(const std::string& axis, const std::string& from, const std::string& to,
                          const std::string& count = "1") {
  return ", int64[1] three = {3}, int64 zero = {0}, int64 step = {1}, int64[1] axes = {1}, int64 "
         "second = {" +
         axis + "}, int64[1] from = {" + from + "}, int64[1] to = {" + to + "}, int64[1] count = {" + count + "}";
}
TEST(FoldChannelBorder, RowsCountedFromARange) {
  const std::string end = ", int64[8] pads = {0, 0, 0, 0, 0, 0, 1, 0}";
  expect_operators(kPass,
                   net(kPadded + kScatterRange, range_numbers("2", "-1", "9223372036854775807") + end, "N, 2, H, 5"),
                   "Conv Conv");
  const std::string begin = ", int64[8] pads = {0, 0, 2, 0, 0, 0, 0, 0}";
  expect_operators(kPass, net(kPadded + kScatterRange, range_numbers("2", "0", "2", "2") + begin, "2, 2, H, 5"),
                   "Conv Conv");
  // The length of another axis; rows inside.
  expect_kept(kPadded + kScatterRange, range_numbers("3", "-1", "9223372036854775807") + end, "N, 2, H, 5");
  expect_kept(kPadded + kScatterRange, range_numbers("2", "-2", "-1") + end, "N, 2, H, 5");
}
// TorchScript names every element of the rows.
std::string elements(int row, const std::string& more = "") {
  std::string indices;
  int count = 0;
  for (int n = 0; n < 2; ++n) {
    for (int c = 0; c < 3; ++c) {
      for (int w = 0; w < 5; ++w, ++count) {
        indices += (indices.empty() ? "" : ", ") + std::to_string(n) + ", " + std::to_string(c) + ", " +
                   std::to_string(row) + ", " + std::to_string(w) + more;
      }
    }
  }
  return ", int64[2, 3, 1, 5, 4] i = {" + indices + "}";
}
const std::string kBottom = ", int64[8] pads = {0, 0, 0, 0, 0, 0, 1, 0}";
TEST(FoldChannelBorder, RowsWrittenByElement) {
  const std::string nodes = kPadded + "s = ScatterND(p, i, t) y = Conv(s, k)";
  expect_operators(kPass, net(nodes, elements(4) + rows("t", "2, 3, 1, 5") + kBottom), "Conv Conv");
  expect_kept(nodes, elements(3) + rows("t", "2, 3, 1, 5") + kBottom);                // a row of the map
  expect_kept(nodes, elements(4) + rows("t", "2, 3, 1, 5", "1,3,-2") + kBottom);      // other numbers
  expect_kept(nodes, elements(4) + rows("t", "2, 3, 1, 5") + kBottom, "N, 2, 4, 5");  // perhaps more images
  expect_kept(kPadded + "s = ScatterND<reduction = \"add\">(p, i, t) y = Conv(s, k)",
              elements(4) + rows("t", "2, 3, 1, 5") + kBottom);
}
TEST(FoldChannelBorder, ThenTheChainMerges) {
  const auto model = expect_operators(
      kPass, net(kConv + kConcat, rows("t", "2, 3, 1, 5") + rows("s", "2, 3, 6, 1", "1,-2,3", 6)), "Conv Conv");
  const auto merged = model->clone();
  EXPECT_TRUE(*run_pass("merge-conv-chain", *merged));
  EXPECT_EQ(operators_of(merged->graph()), "Conv");
  EXPECT_EQ(difference(*model, *merged, Precision::kFloat64, 1e-12, 3), "");
}

TEST(FoldChannelBorder, AnIncompleteBorderStays) {
  const std::string nodes = kPadded +
                            "a = Transpose<perm = [2, 1, 0, 3]>(p) e = ScatterND(a, first, u) "
                            "o = Transpose<perm = [2, 1, 0, 3]>(e) y = Conv(o, k)";
  expect_kept(nodes, ", int64[2, 1] first = {0, 5}" + rows("u", "2, 3, 2, 7", "1,-2,3", 14) + kPad1);  // no sides
  expect_kept(nodes, ", int64[1, 1] first = {0}" + rows("u", "1, 3, 2, 5", "1,-2,3", 10, 1) +
                         ", int64[8] pads = {0, 0, 1, 0, 0, 0, 1, 0}");  // no last row
  expect_kept(nodes, ", int64[3, 1] first = {0, 5, 4}" + rows("u", "3, 3, 2, 5", "1,-2,3", 10, 3) +
                         ", int64[8] pads = {0, 0, 1, 0, 0, 0, 1, 0}");  // a row of the map with it
}
TEST(FoldChannelBorder, OtherNumbersStay) {
  const std::string one = kConv + "e = Concat<axis = 2>(t, c) y = Conv(e, k)";
  expect_kept(one, rows("t", "2, 3, 1, 5", "1,-2,3.000001"));
  expect_kept(one, ", double[2, 3, 1, 5] t = {}");  // numbers along the row
  expect_kept(kConv + "e = Concat<axis = 2>(x1, c) y = Conv(e, k) x1 = Slice(c, zero, one, two)",
              ", int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}");  // not constant
  expect_kept(kConv + kConcat, rows("t", "2, 3, 1, 5", "1,-2,4") + rows("s", "2, 3, 6, 1", "1,-2,3", 6));
  expect_kept("c = Conv(x, w) e = Concat<axis = 2>(t, c) y = Conv(e, k)", rows("t", "2, 3, 1, 5"));  // no bias
}
TEST(FoldChannelBorder, OtherConvolutionsStay) {
  const std::string rest = "(x, w3, b) e = Concat<axis = 2>(t, c) y = Conv(e, k)";
  expect_kept("c = Conv<pads = [1, 1, 1, 1]>" + rest, ", double[3, 2, 3, 3] w3 = {}" + rows("t", "2, 3, 1, 5"));
  expect_kept("c = Conv<strides = [2, 1]>" + rest, ", double[3, 2, 1, 1] w3 = {}" + rows("t", "2, 3, 1, 5"));
  expect_kept("c = Conv<pads = [0, 0, 1, 0]>" + rest, ", double[3, 2, 1, 1] w3 = {}" + rows("t", "2, 3, 1, 5"));
  expect_kept("c = Relu(x) e = Concat<axis = 2>(t, c) y = Conv(e, k2)",
              ", double[4, 2, 1, 1] k2 = {}" + rows("t", "2, 2, 1, 5", "0,0"));
}
TEST(FoldChannelBorder, ConcatOfChannelsOrImagesStays) {
  expect_kept(kConv + "e = Concat<axis = 1>(v1, c) y = Conv(e, k6)",
              ", double[4, 6, 3, 3] k6 = {}" + rows("v1", "2, 3, 4, 5", "1,-2,3", 20));
  expect_kept(kConv + "e = Concat<axis = 0>(v1, c) y = Conv(e, k)", rows("v1", "2, 3, 4, 5", "1,-2,3", 20));
}
TEST(FoldChannelBorder, InnerMapReadElsewhereStays) {
  const std::string border = kConv + "e = Concat<axis = 2>(t, c) y = Conv(e, k) ";
  expect_kept(border + "z = Relu(c)", rows("t", "2, 3, 1, 5"), "2, 2, 4, 5",
              "double[A, B, C, D] y, double[E, F, G, H] z");
  expect_kept(kConv + "e = Concat<axis = 2>(t, c) y = Conv(e, k)", rows("t", "2, 3, 1, 5"), "2, 2, 4, 5",
              "double[A, B, C, D] y, double[E, F, G, H] c");
}

}  // namespace
}  // namespace onnxfold::test::fold_channel_border_test
