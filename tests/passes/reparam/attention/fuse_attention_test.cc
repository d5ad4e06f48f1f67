#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::fuse_attention_test {
namespace {

// q, k and v are computed: x, z and u are [B, S, 16]; 4 heads of 4, whose scale is 0.5 by default.
std::string net(const std::string& nodes, const std::string& outputs = "float[B, S, 16] y", int opset = 23,
                const std::string& inputs = "", const std::string& more = "") {
  return "<ir_version: 11, opset_import: [\"\" : " + std::to_string(opset) +
         "]> g (float[B, S, 16] x, float[B, S, 16] z, float[B, S, 16] u" + inputs + ") => (" + outputs +
         ") <int64[4] heads = {0, 0, 4, 4}, int64[4] pairs = {0, 0, 2, 4}, int64[3] joined = {0, 0, 16}, float half = "
         "{0.5}, "
         "float odd = {0.3}, float two = {2}, float hidden = {-1e38}, float small = {-10000}" +
         more + "> { " + nodes + " }";
}
const std::string kQ = "q1 = Reshape(x, heads) q = Transpose<perm = [0, 2, 1, 3]>(q1) ";
const std::string kK = "k1 = Reshape(z, heads) kt = Transpose<perm = [0, 2, 3, 1]>(k1) ";
const std::string kV = "v1 = Reshape(u, heads) v = Transpose<perm = [0, 2, 1, 3]>(v1) ";
const std::string kScores = "s = MatMul(q, kt) ";
const std::string kOut = "c = MatMul(p, v) c1 = Transpose<perm = [0, 2, 1, 3]>(c) y = Reshape(c1, joined)";
const std::string kSoftmax = "p = Softmax<axis = -1>(n) ";
const std::string kFlat = "y = Attention<q_num_heads = 4, kv_num_heads = 4";

TEST(FuseAttention, HeadsSideBySide) {
  expect_rewrite("fuse-attention", net(kQ + kK + kV + kScores + "n = Mul(s, half) " + kSoftmax + kOut),
                 net(kFlat + ">(x, z, u)"));
  expect_rewrite("fuse-attention", net(kQ + kK + kV + kScores + "n = Div(s, two) " + kSoftmax + kOut),
                 net(kFlat + ">(x, z, u)"));
}
TEST(FuseAttention, ScaleElsewhere) {
  expect_rewrite("fuse-attention", net(kQ + kK + kV + "h = Mul(q, half) n = MatMul(h, kt) " + kSoftmax + kOut),
                 net(kFlat + ">(x, z, u)"));
  expect_rewrite("fuse-attention",
                 net(kQ + kK + kV + "h = Mul(q, half) l = Mul(kt, half) n = MatMul(h, l) " + kSoftmax + kOut),
                 net("y = Attention<scale = 0.25, q_num_heads = 4, kv_num_heads = 4>(x, z, u)"));
  expect_rewrite("fuse-attention", net(kQ + kK + kV + "n = MatMul(q, kt) " + kSoftmax + kOut),
                 net("y = Attention<scale = 1.0, q_num_heads = 4, kv_num_heads = 4>(x, z, u)"));
}
TEST(FuseAttention, ScaleThatNoAttributeHolds) {
  expect_rewrite("fuse-attention", net(kQ + kK + kV + kScores + "n = Div(s, odd) " + kSoftmax + kOut),
                 net("h = Mul(x, k) y = Attention<scale = 1.0, q_num_heads = 4, kv_num_heads = 4>(h, z, u)",
                     "float[B, S, 16] y", 23, "", ", float k = {3.3333332}"));
}
TEST(FuseAttention, RankFour) {
  const std::string inputs = ", float[B, 4, S, 4] a, float[B, 4, T, 4] b, float[B, 4, T, 4] c";
  const std::string output = "float[B, 4, S, 4] y";
  expect_rewrite(
      "fuse-attention",
      net("t = Transpose<perm = [0, 1, 3, 2]>(b) s = MatMul(a, t) n = Mul(s, half) " + kSoftmax + "y = MatMul(p, c)",
          output, 23, inputs),
      net("y = Attention(a, b, c)", output, 23, inputs));
  // k that nobody transposed, and k transposed from another order.
  expect_rewrite("fuse-attention",
                 net("s = MatMul(a, t) n = Mul(s, half) " + kSoftmax + "y = MatMul(p, c)", output, 23,
                     inputs + ", float[B, 4, 4, T] t"),
                 net("k = Transpose<perm = [0, 1, 3, 2]>(t) y = Attention(a, k, c)", output, 23,
                     inputs + ", float[B, 4, 4, T] t"));
  expect_rewrite(
      "fuse-attention",
      net("k = Transpose<perm = [0, 2, 3, 1]>(t) s = MatMul(a, k) n = Mul(s, half) " + kSoftmax + "y = MatMul(p, c)",
          output, 23, inputs + ", float[B, T, 4, 4] t"),
      net("k = Transpose<perm = [0, 2, 1, 3]>(t) y = Attention(a, k, c)", output, 23,
          inputs + ", float[B, T, 4, 4] t"));
}
TEST(FuseAttention, AddedMask) {
  const std::string scores = kQ + kK + kV + kScores + "m0 = Mul(s, half) n = Add(m0, mask) " + kSoftmax + kOut;
  expect_rewrite("fuse-attention", net(scores, "float[B, S, 16] y", 23, ", float[B, 1, S, S] mask"),
                 net(kFlat + ">(x, z, u, mask)", "float[B, S, 16] y", 23, ", float[B, 1, S, S] mask"));
}
TEST(FuseAttention, MaskOfOneRowIsRepeated) {
  const std::string scores = kQ + kK + kV + kScores + "m0 = Mul(s, half) n = Add(mask, m0) " + kSoftmax + kOut;
  expect_rewrite("fuse-attention", net(scores, "float[B, S, 16] y", 23, ", float[B, 1, 1, S] mask"),
                 net("n = Shape<start = 1, end = 2>(x) t = Concat<axis = 0>(n, one) e = Expand(mask, t) " + kFlat +
                         ">(x, z, u, e)",
                     "float[B, S, 16] y", 23, ", float[B, 1, 1, S] mask", ", int64[1] one = {1}, float[B, 1, S, S] e"));
}
TEST(FuseAttention, ChosenMask) {
  const std::string scores =
      kQ + kK + kV + kScores + "m0 = Mul(s, half) n = Where(mask, m0, hidden) " + kSoftmax + kOut;
  expect_rewrite("fuse-attention", net(scores, "float[B, S, 16] y", 23, ", bool[B, 1, S, S] mask"),
                 net("w = Where(mask, open, hidden) " + kFlat + ">(x, z, u, w)", "float[B, S, 16] y", 23,
                     ", bool[B, 1, S, S] mask", ", float open = {0}"));
}
TEST(FuseAttention, ConstantTriangle) {
  const auto text = [](const std::string& nodes, const std::string& triangle) {
    return "<ir_version: 11, opset_import: [\"\" : 23]> g (float[B, 2, 3, 4] a, float[B, 2, 3, 4] b, float[B, 2, 3, 4] "
           "c)"
           " => (float[B, 2, 3, 4] y) <float half = {0.5}, float[1, 1, 3, 3] mask = {" +
           triangle + "}> { " + nodes + " }";
  };
  const std::string chain =
      "t = Transpose<perm = [0, 1, 3, 2]>(b) s = MatMul(a, t) m0 = Mul(s, half) n = Add(m0, mask) p = Softmax<axis = "
      "-1>(n) "
      "y = MatMul(p, c)";
  expect_rewrite("fuse-attention", text(chain, "0, -1e38, -1e38, 0, 0, -1e38, 0, 0, 0"),
                 text("y = Attention<is_causal = 1>(a, b, c)", "0, 0, 0, 0, 0, 0, 0, 0, 0"));
  // Not a triangle of nothing and everything.
  expect_rewrite("fuse-attention", text(chain, "0, -9, -9, 0, 0, -9, 0, 0, 0"),
                 text("y = Attention(a, b, c, mask)", "0, -9, -9, 0, 0, -9, 0, 0, 0"));
}
TEST(FuseAttention, GroupedQueries) {
  const std::string inputs = ", float[B, S, 8] k0, float[B, S, 8] v0";
  const std::string more = ", int64[1] axis = {2}, int64[5] repeat = {1, 1, 2, 1, 1}, int64[4] all = {0, 4, -1, 4}";
  const std::string k =
      "ka = Reshape(k0, pairs) kb = Transpose<perm = [0, 2, 1, 3]>(ka) kc = Unsqueeze(kb, axis) "
      "kd = Expand(kc, repeat) ke = Reshape(kd, all) kt = Transpose<perm = [0, 1, 3, 2]>(ke) ";
  const std::string v =
      "va = Reshape(v0, pairs) vb = Transpose<perm = [0, 2, 1, 3]>(va) vc = Unsqueeze(vb, axis) "
      "vd = Expand(vc, repeat) v = Reshape(vd, all) ";
  expect_rewrite(
      "fuse-attention",
      net(kQ + k + v + kScores + "n = Mul(s, half) " + kSoftmax + kOut, "float[B, S, 16] y", 23, inputs, more),
      net("y = Attention<q_num_heads = 4, kv_num_heads = 2>(x, k0, v0)", "float[B, S, 16] y", 23, inputs));
}
TEST(FuseAttention, OpsetTooOldLeavesARemark) {
  const std::string text = net(kQ + kK + kV + kScores + "n = Mul(s, half) " + kSoftmax + kOut, "float[B, S, 16] y", 22);
  expect_unchanged("fuse-attention", text);
  const auto model = model_from_text(text);
  std::vector<Remark> remarks;
  ASSERT_TRUE(run_pass("fuse-attention", *model, {}, &remarks));
  ASSERT_EQ(remarks.size(), 1U);
  EXPECT_EQ(remarks[0].reason, "Attention needs opset 23, the model has 22");
}
TEST(FuseAttention, KeepsWhatIsNotExact) {
  const std::string mask = ", float[B, 1, S, S] mask, float[B, 1, S, S] other, bool[B, 1, S, S] flag";
  for (const char* scores : {
           "m0 = Add(s, mask) n = Mul(m0, half) ",                      // the mask is scaled
           "m0 = Mul(s, half) m1 = Add(m0, mask) n = Add(m1, other) ",  // two masks
           "m0 = Mul(s, half) n = Where(flag, m0, small) ",             // hidden scores still count
           "m0 = Mul(s, half) n = Sub(m0, mask) ",                      // subtracted
           "m0 = Div(s, two) m1 = Tanh(m0) n = Mul(m1, two) ",          // softcap
       }) {
    expect_unchanged("fuse-attention",
                     net(kQ + kK + kV + kScores + scores + kSoftmax + kOut, "float[B, S, 16] y", 23, mask));
  }
  // Softmax over the positions of q.
  expect_unchanged("fuse-attention", net(kQ + kK + kV + kScores + "n = Mul(s, half) p = Softmax<axis = 2>(n) " + kOut));
}
TEST(FuseAttention, KeepsInnerValuesThatAreRead) {
  const std::string chain = kQ + kK + kV + kScores + "n = Mul(s, half) " + kSoftmax + kOut;
  expect_unchanged("fuse-attention", net(chain, "float[B, S, 16] y, float[B, 4, S, S] p"));
  expect_unchanged("fuse-attention", net(chain + " o = Relu(s)", "float[B, S, 16] y, float[B, 4, S, S] o"));
}
TEST(FuseAttention, KeepsMasksThatWouldRepeatTheScores) {
  const std::string text =
      "<ir_version: 11, opset_import: [\"\" : 23]> g (float[1, 2, 3, 4] a, float[1, 2, 4, 3] t, float[1, 2, 3, 4] c,"
      " float[5, 1, 3, 3] mask) => (float[5, 2, 3, 4] y) { s = MatMul(a, t) n = Add(s, mask) p = Softmax<axis = -1>(n)"
      " y = MatMul(p, c) }";
  expect_unchanged("fuse-attention", text);
}

}  // namespace
}  // namespace onnxfold::test::fuse_attention_test
