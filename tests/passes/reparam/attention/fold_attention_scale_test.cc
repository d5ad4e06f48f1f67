#include <gtest/gtest.h>

#include "tests/passes/reparam/attention_text.h"
#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::fold_attention_scale_test {
namespace {

const std::string kPass = "fold-attention-scale";
const std::string kProjections =
    "MatMul Add Reshape Transpose MatMul Add Reshape Transpose MatMul Add Reshape Transpose ";
const std::string kTail = "Softmax MatMul Transpose Reshape MatMul Add";

AttentionText with_scores(const std::string& scores, const std::string& initializers = "") {
  AttentionText a;
  a.scores = scores;
  a.initializers = initializers;
  return a;
}

TEST(FoldAttentionScale, OfScores) {
  expect_operators(kPass, AttentionText().text(), kProjections + "MatMul " + kTail);
  expect_operators(kPass, with_scores("s0 = MatMul(q, k) s = Mul(half, s0) ", ", double[1] half = {0.5}").text(),
                   kProjections + "MatMul " + kTail);
}
TEST(FoldAttentionScale, OfQueriesAndKeys) {
  expect_operators(kPass,
                   with_scores("a = Mul(q, two) b = Div(k, four) s = MatMul(a, b) ", ", double four = {4}").text(),
                   kProjections + "MatMul " + kTail);
}
TEST(FoldAttentionScale, BeforeTheHeads) {
  AttentionText a = with_scores("s = MatMul(q, k) ");
  a.q =
      "q0 = MatMul(x, wq) q1 = Add(q0, bq) qs = Div(q1, two) q2 = Reshape(qs, heads) q = Transpose<perm = [0, 2, 1, "
      "3]>(q2) ";
  expect_operators(kPass, a.text(), kProjections + "MatMul " + kTail);
}
TEST(FoldAttentionScale, OfPackedProjections) {
  AttentionText a = with_packed_projections();
  a.k = "k2 = Reshape(k0, heads) kn = Transpose<perm = [0, 2, 3, 1]>(k2) k = Mul(two, kn) ";
  expect_operators(kPass, a.text(),
                   "MatMul Add Split Reshape Transpose Reshape Transpose Reshape Transpose MatMul " + kTail);
}
TEST(FoldAttentionScale, BehindRotaryEmbedding) {
  AttentionText a;
  a.q =
      "q0 = MatMul(x, wq) q1 = Add(q0, bq) q2 = Reshape(q1, heads) qp = Transpose<perm = [0, 2, 1, 3]>(q2) "
      "qa = Mul(qp, cs) q3 = Slice(qp, i1, i2, i3) qn = Neg(q3) q4 = Slice(qp, i0, i1, i3) qr = Concat<axis = 3>(qn, "
      "q4) qb = Mul(qr, sn) q = Add(qa, qb) ";
  a.inputs = "double[2, 3, 8] x";
  a.initializers =
      ", int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i3 = {3}, double[3, 2] cs = {}, "
      "double[3, 2] sn = {}";
  expect_operators(
      kPass, a.text(),
      "MatMul Add Reshape Transpose Mul Slice Neg Slice Concat Mul Add MatMul Add Reshape Transpose MatMul "
      "Add Reshape Transpose MatMul " +
          kTail);
}
TEST(FoldAttentionScale, BeforeTheMask) {
  expect_operators(kPass, with_added_mask().text(), kProjections + "MatMul Add " + kTail);
}
TEST(FoldAttentionScale, BeforeTheFusedOperator) {
  const AttentionText a = with_fused_operator("q0 = MatMul(x, wq) q1 = Add(q0, bq) q = Mul(q1, two) ",
                                              "k = MatMul(x, wk) ", "v = MatMul(x, wv) ");
  expect_operators(kPass, a.text(), "MatMul Add MatMul MatMul MultiHeadAttention MatMul Add");
}

TEST(FoldAttentionScale, KeepsBehindTheMask) {
  AttentionText a;
  a.inputs += ", double[B, 1, 1, S] z";
  a.scores = "s0 = MatMul(q, k) s = Add(s0, z) ";
  a.mask = "m = Mul(s, two) ";
  a.probabilities = "p = Softmax<axis = -1>(m) ";
  expect_unchanged(kPass, a.text());
}
TEST(FoldAttentionScale, KeepsScoresReadElsewhere) {
  expect_unchanged(kPass, giving_away("double[B2, H2, S2, T2] s0").text());
  expect_unchanged(kPass, giving_away("double[B2, S2, D2] q1").text());
}
TEST(FoldAttentionScale, KeepsBehindNorms) {
  AttentionText a;
  a.q =
      "q0 = MatMul(x, wq) q1 = Add(q0, bq) q2 = Reshape(q1, heads) qn = LayerNormalization(q2, gn) q = Transpose<perm "
      "= "
      "[0, 2, 1, 3]>(qn) ";
  a.initializers = ", double[2] gn = {1, 2}";
  expect_unchanged(kPass, a.text());
}
TEST(FoldAttentionScale, KeepsKeysInACache) {
  AttentionText a = with_cache();
  a.scores = "ks = Mul(k, two) s = MatMul(q, ks) ";
  expect_unchanged(kPass, a.text());
}
TEST(FoldAttentionScale, KeepsSharedWeights) {
  AttentionText a;
  a.k = "k0 = MatMul(x, wq) k1 = Add(k0, bk) k2 = Reshape(k1, heads) k = Transpose<perm = [0, 2, 3, 1]>(k2) ";
  expect_unchanged(kPass, a.text());
}
TEST(FoldAttentionScale, KeepsVariableFactors) {
  AttentionText a = with_scores("s0 = MatMul(q, k) s = Div(s0, z) ");
  a.inputs += ", double[1] z";
  expect_unchanged(kPass, a.text());
  expect_unchanged(kPass, with_scores("s0 = MatMul(q, k) s = Mul(s0, z) ", ", double[4, 1, 1] z = {}").text());
}
TEST(FoldAttentionScale, KeepsQueriesThatAreKeys) {
  AttentionText a = with_scores("kt = Transpose<perm = [0, 1, 3, 2]>(q) s0 = MatMul(q, kt) s = Div(s0, two) ");
  a.k = "";
  expect_unchanged(kPass, a.text());
}
TEST(FoldAttentionScale, KeepsWithoutFactors) { expect_unchanged(kPass, with_scores("s = MatMul(q, k) ").text()); }

}  // namespace
}  // namespace onnxfold::test::fold_attention_scale_test
