#include <gtest/gtest.h>

#include "tests/passes/reparam/attention_text.h"
#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::remove_key_bias_test {
namespace {

const std::string kPass = "remove-key-bias";
const std::string kLeft =
    "MatMul Add Reshape Transpose MatMul Reshape Transpose MatMul Add Reshape Transpose MatMul Div ";
const std::string kTail = "MatMul Transpose Reshape MatMul Add";

TEST(RemoveKeyBias, OfPlainAttention) { expect_operators(kPass, AttentionText().text(), kLeft + "Softmax " + kTail); }
TEST(RemoveKeyBias, OfGemm) {
  AttentionText a;
  a.inputs = "double[6, 8] x";
  a.k = "k1 = Gemm<beta = 0.5>(x, wk, bk) k2 = Reshape(k1, rows) k = Transpose<perm = [0, 2, 3, 1]>(k2) ";
  a.q = "q1 = Gemm(x, wq, bq) q2 = Reshape(q1, rows) q = Transpose<perm = [0, 2, 1, 3]>(q2) ";
  a.v = "v1 = Gemm(x, wv, bv) v2 = Reshape(v1, rows) v = Transpose<perm = [0, 2, 1, 3]>(v2) ";
  a.initializers = ", int64[4] rows = {2, 3, 4, 2}";
  const auto model = expect_operators(kPass, a.text(),
                                      "Gemm Reshape Transpose Gemm Reshape Transpose Gemm Reshape Transpose MatMul Div "
                                      "Softmax " +
                                          kTail);
  EXPECT_EQ(model->graph().find("bk"), nullptr);
}
TEST(RemoveKeyBias, WithAddedMask) {
  AttentionText a = with_added_mask();
  a.mask = "m = Add(z, s) ";
  expect_operators(kPass, a.text(), kLeft + "Add Softmax " + kTail);
}
TEST(RemoveKeyBias, WithHiddenScores) {
  for (const char* hidden : {"-10000.0", "-3.4e38"}) {
    AttentionText a;
    a.inputs += ", bool[B, 1, 1, S] z";
    a.initializers = std::string(", double h = {") + hidden + "}";
    a.mask = "m = Where(z, s, h) ";
    a.probabilities = "p = Softmax<axis = -1>(m) ";
    expect_operators(kPass, a.text(), kLeft + "Where Softmax " + kTail);
  }
}
TEST(RemoveKeyBias, OfCrossAttentionWithScaledKeys) {
  AttentionText a;
  a.inputs += ", double[B, T, 8] z";
  a.k =
      "k0 = MatMul(z, wk) k1 = Add(k0, bk) ks = Mul(k1, two) k2 = Reshape(ks, heads) k = Transpose<perm = [0, 2, 3, "
      "1]>(k2) ";
  a.v = "v0 = MatMul(z, wv) v2 = Reshape(v0, heads) v = Transpose<perm = [0, 2, 1, 3]>(v2) ";
  expect_operators(kPass, a.text(),
                   "MatMul Add Reshape Transpose MatMul Mul Reshape Transpose MatMul Reshape Transpose MatMul Div "
                   "Softmax " +
                       kTail);
}
TEST(RemoveKeyBias, BeforeTheFusedOperator) {
  const AttentionText a =
      with_fused_operator("q = MatMul(x, wq) ", "k0 = MatMul(x, wk) k = Add(k0, bk) ", "v = MatMul(x, wv) ");
  expect_operators(kPass, a.text(), "MatMul MatMul MatMul MultiHeadAttention MatMul Add");
}

TEST(RemoveKeyBias, KeepsIntermediateFormsOfScores) {
  AttentionText a;
  a.scores = "s0 = MatMul(q, k) s1 = Div(s0, two) s2 = Tanh(s1) s = Mul(s2, two) ";
  expect_unchanged(kPass, a.text());
  a.scores = "s0 = MatMul(q, k) s = Clip(s0, low) ";
  a.initializers = ", double low = {-1}";
  expect_unchanged(kPass, a.text());
  a.initializers = ", double low = {-1}";
  a.scores = "s0 = MatMul(q, k) s = Max(s0, low) ";
  expect_unchanged(kPass, a.text());
}
TEST(RemoveKeyBias, KeepsWithUnknownFactor) {
  AttentionText a;
  a.inputs += ", double[B, 1, S, S] z";
  a.scores = "s0 = MatMul(q, k) s = Mul(s0, z) ";
  expect_unchanged(kPass, a.text());
}
TEST(RemoveKeyBias, KeepsWithWeakHiding) {
  AttentionText a;
  a.inputs += ", bool[B, 1, 1, S] z";
  a.initializers = ", double h = {-5.0}";
  a.mask = "m = Where(z, s, h) ";
  a.probabilities = "p = Softmax<axis = -1>(m) ";
  expect_unchanged(kPass, a.text());
}
TEST(RemoveKeyBias, KeepsWithNormOnKeys) {
  AttentionText a;
  a.k =
      "k0 = MatMul(x, wk) k1 = Add(k0, bk) k2 = Reshape(k1, heads) kn = LayerNormalization(k2, gn) k = "
      "Transpose<perm = [0, 2, 3, 1]>(kn) ";
  a.initializers = ", double[2] gn = {1, 2}";
  expect_unchanged(kPass, a.text());
}
TEST(RemoveKeyBias, KeepsWithRotaryKeys) {
  AttentionText a;
  a.k =
      "k0 = MatMul(x, wk) k1 = Add(k0, bk) k2 = Reshape(k1, heads) kp = Transpose<perm = [0, 2, 1, 3]>(k2) "
      "ka = Mul(kp, cs) k3 = Slice(kp, i1, i2, i3) kn = Neg(k3) k4 = Slice(kp, i0, i1, i3) kr = Concat<axis = 3>(kn, "
      "k4) kb = Mul(kr, sn) kk = Add(ka, kb) k = Transpose<perm = [0, 1, 3, 2]>(kk) ";
  a.inputs += ", double[S, 2] cs, double[S, 2] sn";
  a.initializers = ", int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i3 = {3}";
  expect_unchanged(kPass, a.text());
}
TEST(RemoveKeyBias, KeepsWithCache) {
  AttentionText a = with_cache();
  a.outputs += ", double[B2, H2, P2, D2] k4";
  expect_unchanged(kPass, a.text());
}
TEST(RemoveKeyBias, KeepsKeysReadElsewhere) {
  expect_unchanged(kPass, giving_away("double[B2, S2, D2] k1").text());
  expect_unchanged(kPass, giving_away("double[B2, H2, S2, T2] s0").text());
  AttentionText a;  // a position term made of the keys
  a.inputs += ", double[4, S, 2] z";
  a.scores = "s0 = MatMul(q, k) r = MatMul(z, k) s = Add(s0, r) ";
  expect_unchanged(kPass, a.text());
}
TEST(RemoveKeyBias, KeepsPackedProjections) { expect_unchanged(kPass, with_packed_projections().text()); }
TEST(RemoveKeyBias, KeepsQueryAndValueBiases) {
  AttentionText a;
  a.k = "k0 = MatMul(x, wk) k2 = Reshape(k0, heads) k = Transpose<perm = [0, 2, 3, 1]>(k2) ";
  expect_unchanged(kPass, a.text());
}

}  // namespace
}  // namespace onnxfold::test::remove_key_bias_test
