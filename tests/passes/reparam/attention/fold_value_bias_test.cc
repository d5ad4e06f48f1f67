#include <gtest/gtest.h>

#include "tests/passes/reparam/attention_text.h"
#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::fold_value_bias_test {
namespace {

const std::string kPass = "fold-value-bias";
const std::string kHead =
    "MatMul Add Reshape Transpose MatMul Add Reshape Transpose MatMul Reshape Transpose MatMul Div ";
const std::string kTail = "MatMul Transpose Reshape MatMul Add";

TEST(FoldValueBias, OfPlainAttention) {
  const auto model = expect_operators(kPass, AttentionText().text(), kHead + "Softmax " + kTail);
  EXPECT_EQ(model->graph().find("bv"), nullptr);
}
TEST(FoldValueBias, WithMaskAndDropout) {
  AttentionText a = with_added_mask();
  a.probabilities = "p0 = Softmax<axis = 3>(m) p = Dropout(p0) ";
  expect_operators(kPass, a.text(), kHead + "Add Softmax Dropout " + kTail);
}
TEST(FoldValueBias, RowsOfNothingStayNaN) {
  AttentionText a;
  a.mask = "m0 = Log(zero) m = Add(s, m0) ";  // all scores of all rows at minus infinity
  a.initializers = ", double zero = {0}";
  a.probabilities = "p = Softmax<axis = -1>(m) ";
  expect_operators(kPass, a.text(), kHead + "Log Add Softmax " + kTail);
}
TEST(FoldValueBias, OfScaledValuesAndGroupedHeads) {
  AttentionText a;
  a.k =
      "k0 = MatMul(x, wk2) k2 = Reshape(k0, heads2) k3 = Transpose<perm = [0, 2, 3, 1]>(k2) k4 = Unsqueeze(k3, i2) "
      "k5 = Expand(k4, twice) k6 = Reshape(k5, flat) k = Identity(k6) ";
  a.v =
      "v0 = MatMul(x, wv2) v1 = Add(v0, bv2) vs = Mul(v1, two) v2 = Reshape(vs, heads2) v3 = Transpose<perm = [0, 2, "
      "1, "
      "3]>(v2) v4 = Unsqueeze(v3, i2) v5 = Expand(v4, twice) v = Reshape(v5, flatv) ";
  a.inputs = "double[2, 3, 8] x";
  a.initializers =
      ", double[8, 4] wk2 = {}, double[8, 4] wv2 = {}, double[4] bv2 = {}, int64[4] heads2 = {0, -1, 2, 2}, "
      "int64[1] i2 = {2}, int64[5] twice = {1, 1, 2, 1, 1}, int64[4] flat = {2, 4, 2, 3}, int64[4] flatv = "
      "{2, 4, 3, 2}";
  expect_operators(kPass, a.text(),
                   "MatMul Add Reshape Transpose MatMul Reshape Transpose Unsqueeze Expand Reshape Identity MatMul Mul "
                   "Reshape Transpose Unsqueeze Expand Reshape MatMul Div Softmax " +
                       kTail);
}
TEST(FoldValueBias, IntoGemmWithoutBias) {
  AttentionText a;
  a.inputs = "double[2, 3, 8] x";
  a.initializers = ", int64[2] rows = {6, 8}";
  a.context = "c = MatMul(p, v) c1 = Transpose<perm = [0, 2, 1, 3]>(c) c2 = Reshape(c1, rows) ";
  a.out = "y = Gemm<transB = 1, alpha = 2.0>(c2, wo) ";
  a.outputs = "double[A, F] y";
  expect_operators(kPass, a.text(), kHead + "Softmax MatMul Transpose Reshape Gemm");
}
TEST(FoldValueBias, BeforeTheFusedOperator) {
  AttentionText a =
      with_fused_operator("q = MatMul(x, wq) ", "k = MatMul(x, wk) ", "v0 = MatMul(x, wv) v = Add(v0, bv) ");
  expect_operators(kPass, a.text(), "MatMul MatMul MatMul MultiHeadAttention MatMul Add");
  a.context = "c2 = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v, , , z) ";
  a.inputs += ", double[B, 4, S, S] z";
  expect_unchanged(kPass, a.text());  // a mask may hide a whole row
}

TEST(FoldValueBias, KeepsBehindANaNGuard) {
  AttentionText a;
  a.probabilities = "p0 = Softmax<axis = -1>(s) n = IsNaN(p0) p = Where(n, zero, p0) ";
  a.initializers = ", double zero = {0}";
  expect_unchanged(kPass, a.text());
}
TEST(FoldValueBias, KeepsWhereProbabilitiesAreChanged) {
  AttentionText a;
  a.inputs += ", double[B, 1, 1, S] z";
  a.probabilities = "p0 = Softmax<axis = -1>(s) p = Mul(p0, z) ";
  expect_unchanged(kPass, a.text());
  a = AttentionText();
  a.probabilities = "p0 = Softmax<axis = -1>(s) p = Dropout(p0, half, on) ";
  a.initializers = ", double half = {0.5}, bool on = {1}";
  expect_unchanged(kPass, a.text());
  a = AttentionText();  // a sink takes a part of every row
  a.inputs += ", double[B, 4, S, 1] z";
  a.probabilities = "s1 = Concat<axis = -1>(s, z) p0 = Softmax<axis = -1>(s1) p = Slice(p0, i0, im, i3) ";
  a.initializers = ", int64[1] i0 = {0}, int64[1] im = {-1}, int64[1] i3 = {3}";
  expect_unchanged(kPass, a.text());
}
TEST(FoldValueBias, KeepsOtherAxesOfSoftmax) {
  AttentionText a;
  a.probabilities = "p = Softmax<axis = 2>(s) ";
  expect_unchanged(kPass, a.text());
}
TEST(FoldValueBias, KeepsWithoutPlaceForIt) {
  AttentionText a;
  a.out = "y = MatMul(c2, wo) ";
  expect_unchanged(kPass, a.text());
}
TEST(FoldValueBias, KeepsValuesReadElsewhere) {
  expect_unchanged(kPass, giving_away("double[B2, S2, D2] v1").text());
  expect_unchanged(kPass, giving_away("double[B2, S2, D2] c2").text());
}
TEST(FoldValueBias, KeepsWithNormOrGateBeforeTheOutput) {
  AttentionText a;
  a.out = "n = LayerNormalization(c2, gn) o = MatMul(n, wo) y = Add(o, bo) ";
  a.initializers = ", double[8] gn = {}";
  expect_unchanged(kPass, a.text());
  a = AttentionText();
  a.out = "n = Sigmoid(x) d = Mul(c2, n) o = MatMul(d, wo) y = Add(o, bo) ";
  expect_unchanged(kPass, a.text());
}
TEST(FoldValueBias, KeepsWithCache) { expect_unchanged(kPass, with_cache().text()); }
TEST(FoldValueBias, KeepsWithoutValueBias) {
  AttentionText a;
  a.v = "v0 = MatMul(x, wv) v2 = Reshape(v0, heads) v = Transpose<perm = [0, 2, 1, 3]>(v2) ";
  expect_unchanged(kPass, a.text());
}

}  // namespace
}  // namespace onnxfold::test::fold_value_bias_test
