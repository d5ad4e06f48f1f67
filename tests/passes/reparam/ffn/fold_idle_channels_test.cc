#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::fold_idle_channels_test {
namespace {

const std::string kPass = "fold-idle-channels";

std::string net(const std::string& nodes, const std::string& initializers = "",
                const std::string& inputs = "double[B, S, 4] x", const std::string& output = "double[D, E, F] y",
                int opset = 17) {
  return "<ir_version: 8, opset_import: [\"\": " + std::to_string(opset) + "]> g (" + inputs + ") => (" + output +
         ") <double[4, 9] a = {}, double[9] b = {}, double[9, 5] c = {}, double[5] d = {}, int64[2] parts = {3, 6}, "
         "int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i3 = {3}, int64[1] i4 = {4}, int64[1] end "
         "= "
         "{9223372036854775807}, int64[1] m1 = {-1}" +
         initializers + "> { " + nodes + " }";
}
const std::string kUp = "h0 = MatMul(x, a) h = Add(h0, b) ";
const std::string kDown = "r = MatMul(j, c) y = Add(r, d)";

TEST(FoldIdleChannels, CutBySplit) {
  expect_operators(kPass, net(kUp + "p, q = Split<axis = 2>(h, parts) e = Erf(p) j = Concat<axis = 2>(e, q) " + kDown),
                   "MatMul Add Erf MatMul Add MatMul Add");
}
TEST(FoldIdleChannels, CutBySliceAtEitherEnd) {
  expect_operators(kPass,
                   net(kUp +
                       "p = Slice(h, i0, i3, m1) q = Slice(h, i3, end, i2) e = Relu(p) j = Concat<axis = -1>(e, "
                       "q) " +
                       kDown),
                   "MatMul Add Relu MatMul Add MatMul Add");
  expect_operators(kPass,
                   net(kUp + "q, p = Split<axis = -1>(h, back) e = Relu(p) j = Concat<axis = -1>(q, e) " + kDown,
                       ", int64[2] back = {6, 3}"),
                   "MatMul Add Relu MatMul Add MatMul Add");
}
TEST(FoldIdleChannels, WithoutBiases) {
  expect_operators(kPass,
                   net("h = MatMul(x, a) p, q = Split<axis = 2>(h, parts) e = Relu(p) j = Concat<axis = 2>(e, q) y = "
                       "MatMul(j, c)"),
                   "MatMul Relu MatMul MatMul Add");
}
TEST(FoldIdleChannels, Gemms) {
  expect_operators(kPass,
                   net("h = Gemm(x, a, b) p, q = Split<axis = 1>(h, parts) e = Relu(p) j = Concat<axis = 1>(e, q) y = "
                       "Gemm<transB = 1, alpha = 0.5>(j, ct, d)",
                       ", double[5, 9] ct = {}", "double[N, 4] x", "double[D, E] y"),
                   "Gemm Relu Gemm Gemm Add");
}
TEST(FoldIdleChannels, AnActivationThatReadsItsInputTwice) {
  expect_operators(
      kPass,
      net(kUp + "p, q = Split<axis = 2>(h, parts) s = Sigmoid(p) e = Mul(p, s) j = Concat<axis = 2>(e, q) " + kDown, "",
          "double[B, S, 4] x", "double[D, E, F] y", 13),
      "MatMul Add Sigmoid Mul MatMul Add MatMul Add");
}
TEST(FoldIdleChannels, SeveralActivePiecesAndOthersInTheConcat) {
  expect_operators(
      kPass,
      net(kUp + "p, q, s = Split<axis = 2>(h, three) e = Relu(p) f = Tanh(s) j = Concat<axis = 2>(z, e, q, "
                "f) r = MatMul(j, c2) y = Add(r, d)",
          ", int64[3] three = {2, 5, 2}, double[11, 5] c2 = {}", "double[B, S, 4] x, double[B, S, 2] z"),
      "MatMul Add Split Relu Tanh MatMul Add Concat MatMul Add");
}
TEST(FoldIdleChannels, AllOfALinear) {
  expect_operators(kPass,
                   net("h = MatMul(x, a) g0 = MatMul(x, a2) e = Relu(g0) j = Concat<axis = 2>(e, h) y = MatMul(j, c2)",
                       ", double[4, 2] a2 = {}, double[11, 5] c2 = {}"),
                   "MatMul Relu MatMul MatMul Add");
}

TEST(FoldIdleChannels, KeepsFewIdleChannels) {  // 4 * 5 against 2 * (4 + 5)
  expect_unchanged(kPass, net(kUp + "p, q = Split<axis = 2>(h, seven) e = Relu(p) j = Concat<axis = 2>(e, q) " + kDown,
                              ", int64[2] seven = {7, 2}"));
}
TEST(FoldIdleChannels, KeepsHiddenChannelsReadElsewhere) {
  expect_unchanged(kPass, net(kUp + "p, q = Split<axis = 2>(h, parts) e = Relu(p) j = Concat<axis = 2>(e, q) " + kDown,
                              "", "double[B, S, 4] x", "double[D, E, F] y, double[G, H, I] q"));
  expect_unchanged(kPass, net(kUp + "p, q = Split<axis = 2>(h, parts) e = Relu(p) j = Concat<axis = 2>(e, q) " + kDown +
                                  " z = Neg(h)",
                              "", "double[B, S, 4] x", "double[D, E, F] y, double[G, H, I] z"));
  expect_unchanged(kPass, net(kUp + "p, q = Split<axis = 2>(h, parts) e = Relu(p) j = Concat<axis = 2>(e, q) " + kDown,
                              "", "double[B, S, 4] x", "double[D, E, F] y, double[G, H, I] j"));
}
TEST(FoldIdleChannels, KeepsWhereAllAreActive) {
  expect_unchanged(
      kPass, net(kUp + "p, q = Split<axis = 2>(h, parts) e = Relu(p) f = Tanh(q) j = Concat<axis = 2>(e, f) " + kDown));
}
TEST(FoldIdleChannels, KeepsAnActivationAfterTheConcat) {
  expect_unchanged(
      kPass,
      net(kUp + "p, q = Split<axis = 2>(h, parts) e = Relu(p) j0 = Concat<axis = 2>(e, q) j = Tanh(j0) " + kDown));
}
TEST(FoldIdleChannels, KeepsOtherAxes) {
  expect_unchanged(kPass, net("h0 = MatMul(x, a) h = Add(h0, b) p, q = Split<axis = 1>(h, parts) e = Relu(p) j = "
                              "Concat<axis = 1>(e, q) " +
                                  kDown,
                              "", "double[B, 9, 4] x"));
}
TEST(FoldIdleChannels, KeepsOverlappingPieces) {
  expect_unchanged(kPass, net(kUp + "p = Slice(h, i0, i4, m1) q = Slice(h, i3, end, m1) e = Relu(p) j = "
                                    "Concat<axis = 2>(e, q) r = MatMul(j, c2) y = Add(r, d)",
                              ", double[10, 5] c2 = {}"));
}
TEST(FoldIdleChannels, KeepsEveryOtherChannel) {
  expect_unchanged(kPass, net(kUp +
                              "p = Slice(h, i0, end, m1, i2) q = Slice(h, i1, end, m1, i2) e = Relu(p) j = "
                              "Concat<axis = 2>(e, q) " +
                              kDown));
}
TEST(FoldIdleChannels, KeepsVariableWeights) {
  expect_unchanged(kPass, net("h0 = MatMul(x, z) h = Add(h0, b) p, q = Split<axis = 2>(h, parts) e = Relu(p) j = "
                              "Concat<axis = 2>(e, q) " +
                                  kDown,
                              "", "double[B, S, 4] x, double[4, 9] z"));
}

}  // namespace
}  // namespace onnxfold::test::fold_idle_channels_test
