#include "analysis/structure/attention.h"

#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::attention_test {
namespace {

using test::model_from_text;

// Width 8; x is [B, S, 8]. Separate projections with 4 heads of 2, keys and values with 2 or 4 heads.
std::string graph_text(const std::string& nodes, const std::string& outputs = "float[B, S, 8] y",
                       const std::string& inputs = "") {
  return "<ir_version: 8, opset_import: [\"\" : 17, \"com.microsoft\" : 1]> g (float[B, S, 8] x" + inputs + ") => (" +
         outputs + R"() < float[8, 8] wq = {}, float[8, 8] wk = {}, float[8, 8] wv = {}, float[8, 8] wo = {},
    float[8, 4] wk2 = {}, float[8, 4] wv2 = {}, float[8, 24] wqkv = {}, float[24] bqkv = {}, float[8] bq = {},
    int64[4] heads4 = {0, -1, 4, 2}, int64[4] heads2 = {0, -1, 2, 2}, int64[5] packed = {0, -1, 3, 4, 2},
    int64[3] joined = {0, -1, 8}, float scale = {0.5}, float hidden = {-10000.0}, int64 i0 = {0}, int64 i1 = {1},
    int64 i2 = {2}, int64[1] two = {2}, int64[4] one = {1, 1, 2, 1}, float[1, 1, 4, 4] triangle =
    {0, -9, -9, -9, 0, 0, -9, -9, 0, 0, 0, -9, 0, 0, 0, 0}> { )" +
         nodes + " }";
}

struct Found {
  std::unique_ptr<Model> model;  // the pointers lead into it
  std::vector<Attention> all;
  std::vector<StructureNote> notes;
};

Found attentions(const std::string& text) {
  Found found;
  found.model = model_from_text(text);
  found.all = find_attentions(found.model->graph(), &found.notes);
  return found;
}

const std::string kQ = "q0 = MatMul(x, wq) q1 = Reshape(q0, heads4) q = Transpose <perm = [0, 2, 1, 3]> (q1) ";
const std::string kK = "k0 = MatMul(x, wk) k1 = Reshape(k0, heads4) kt = Transpose <perm = [0, 2, 3, 1]> (k1) ";
const std::string kV = "v0 = MatMul(x, wv) v1 = Reshape(v0, heads4) v = Transpose <perm = [0, 2, 1, 3]> (v1) ";
const std::string kScores = "s = MatMul(q, kt) n = Mul(s, scale) p = Softmax <axis = -1> (n) ";
const std::string kOut =
    "c = MatMul(p, v) c1 = Transpose <perm = [0, 2, 1, 3]> (c) c2 = Reshape(c1, joined) y = MatMul(c2, wo)";

TEST(Attention, SeparateProjections) {
  const Found found = attentions(graph_text(kQ + kK + kV + kScores + kOut));
  ASSERT_EQ(found.all.size(), 1U);
  const Attention& a = found.all.front();
  EXPECT_EQ(a.heads, 4);
  EXPECT_EQ(a.kv_heads, 4);
  EXPECT_EQ(a.head_width, 2);
  EXPECT_DOUBLE_EQ(a.scale.value_or(0), 0.5);
  EXPECT_TRUE(a.separate());
  EXPECT_FALSE(a.packed() || a.causal || a.rotary || a.cross);
  ASSERT_TRUE(a.out && a.q.linear && a.k.linear && a.v.linear);
  EXPECT_EQ(a.k.linear->weight->name(), "wk");
  EXPECT_EQ(a.output->name(), "y");
  EXPECT_EQ(a.input->name(), "x");
  EXPECT_EQ(a.nodes.size(), found.model->graph().node_count());
}

TEST(Attention, ScaleIsTheProductOfWhatStandsAnywhere) {
  for (const char* scores : {
           "s = MatMul(q, kt) n = Mul(s, scale) p = Softmax <axis = 3> (n) ",
           "qs = Mul(scale, q) s = MatMul(qs, kt) p = Softmax(s) ",
           "h = Constant <value_float = 2.0> () s = MatMul(q, kt) n = Div(s, h) p = Softmax(n) ",
           "r = Sqrt(scale) qs = Mul(q, r) ks = Mul(kt, r) s = MatMul(qs, ks) p = Softmax(s) ",
           "s = com.microsoft.FusedMatMul <alpha = 0.5> (q, kt) p = Softmax(s) ",
           // the head's width from the shape of q
           "o = Constant <value_float = 2.0> () sh = Shape(q) d = Gather(sh, i1) f = Cast <to = 1> (d) r = Div(o, f) "
           "s = MatMul(q, kt) n = Mul(s, r) p = Softmax <axis = -1> (n) ",
       }) {
    const Found found = attentions(graph_text(kQ + kK + kV + scores + kOut));
    ASSERT_EQ(found.all.size(), 1U) << scores;
    ASSERT_TRUE(found.all.front().scale) << scores;
    EXPECT_NEAR(*found.all.front().scale, 0.5, 1e-7) << scores;
  }
}

TEST(Attention, AScaleThatIsNoKnownScalarIsLeftOut) {
  const Found found =
      attentions(graph_text(kQ + kK + kV + "s = MatMul(q, kt) n = Mul(s, t) p = Softmax <axis = -1> (n) " + kOut,
                            "float[B, S, 8] y", ", float[1] t"));
  ASSERT_EQ(found.all.size(), 1U);
  EXPECT_FALSE(found.all.front().scale);
}

TEST(Attention, Masks) {
  const Found added = attentions(
      graph_text(kQ + kK + kV + "s = MatMul(q, kt) n = Mul(s, scale) a = Add(m, n) p = Softmax <axis = -1> (a) " + kOut,
                 "float[B, S, 8] y", ", float[B, 1, 1, S] m"));
  ASSERT_EQ(added.all.size(), 1U);
  ASSERT_EQ(added.all.front().masks.size(), 1U);
  EXPECT_EQ(added.all.front().masks[0]->name(), "m");
  EXPECT_FALSE(added.all.front().causal);

  const Found chosen = attentions(graph_text(
      kQ + kK + kV + "s = MatMul(q, kt) n = Mul(s, scale) w = Where(m, n, hidden) p = Softmax <axis = -1> (w) " + kOut,
      "float[B, S, 8] y", ", bool[B, 1, 1, S] m"));
  ASSERT_EQ(chosen.all.size(), 1U);
  EXPECT_EQ(chosen.all.front().mask_value, -10000);

  const Found causal = attentions(graph_text(
      kQ + kK + kV + "s = MatMul(q, kt) n = Mul(s, scale) a = Add(n, triangle) p = Softmax <axis = -1> (a) " + kOut));
  ASSERT_EQ(causal.all.size(), 1U);
  EXPECT_TRUE(causal.all.front().causal);
}

TEST(Attention, PackedProjectionsInEverySpelling) {
  const std::string head = "l = MatMul(x, wqkv) b = Add(l, bqkv) ";
  const std::string tail = "kt = Transpose <perm = [0, 1, 3, 2]> (k) " + kScores + kOut;
  for (const char* nodes : {
           // timm: one axis for q, k and v, then Split, Gather or Slice
           "r = Reshape(b, packed) t = Transpose <perm = [2, 0, 3, 1, 4]> (r) q = Gather <axis = 0> (t, i0) "
           "k = Gather <axis = 0> (t, i1) v = Gather <axis = 0> (t, i2) ",
           "r = Reshape(b, packed) t = Transpose <perm = [2, 0, 3, 1, 4]> (r) z = Constant <value_ints = [0]> () "
           "q0, k0, v0 = Split <axis = 0> (t) q = Squeeze(q0, z) k = Squeeze(k0, z) v = Squeeze(v0, z) ",
           // GPT-2: columns split first
           "q0, k0, v0 = Split <axis = 2> (b) q1 = Reshape(q0, heads4) k1 = Reshape(k0, heads4) "
           "v1 = Reshape(v0, heads4) q = Transpose <perm = [0, 2, 1, 3]> (q1) "
           "k = Transpose <perm = [0, 2, 1, 3]> (k1) v = Transpose <perm = [0, 2, 1, 3]> (v1) ",
       }) {
    const Found found = attentions(graph_text(head + nodes + tail));
    ASSERT_EQ(found.all.size(), 1U) << nodes;
    const Attention& a = found.all.front();
    EXPECT_TRUE(a.packed() && !a.separate()) << nodes;
    EXPECT_EQ(a.heads, 4) << nodes;
    EXPECT_EQ(a.q.offset, 0) << nodes;
    EXPECT_EQ(a.k.offset, 8) << nodes;
    EXPECT_EQ(a.v.offset, 16) << nodes;
    EXPECT_EQ(a.k.head_stride, 2) << nodes;
  }
}

TEST(Attention, PackedByHead) {
  // BLOOM, GPT-NeoX: every head has its q, k and v side by side
  const Found found = attentions(
      graph_text("l = MatMul(x, wqkv) by_head = Constant <value_ints = [0, -1, 4, 6]> () r = Reshape(l, by_head) "
                 "t = Transpose <perm = [0, 2, 1, 3]> (r) q, k, v = Split <axis = 3> (t) "
                 "kt = Transpose <perm = [0, 1, 3, 2]> (k) " +
                 kScores + kOut));
  ASSERT_EQ(found.all.size(), 1U);
  EXPECT_EQ(found.all.front().heads, 4);
  EXPECT_EQ(found.all.front().v.offset, 4);
  EXPECT_EQ(found.all.front().v.head_stride, 6);
}

TEST(Attention, GroupedQueries) {
  const std::string k2 = "k0 = MatMul(x, wk2) k1 = Reshape(k0, heads2) k2 = Transpose <perm = [0, 2, 1, 3]> (k1) ";
  const std::string v2 = "v0 = MatMul(x, wv2) v1 = Reshape(v0, heads2) v2 = Transpose <perm = [0, 2, 1, 3]> (v1) ";
  const std::string repeat =
      "z = Constant <value_ints = [2]> () e = Constant <value_ints = [1, 1, 2, 1, 1]> () "
      "j = Constant <value_ints = [0, 4, -1, 2]> () ku = Unsqueeze(k2, z) ke = Expand(ku, e) k = Reshape(ke, j) "
      "vu = Unsqueeze(v2, z) ve = Expand(vu, e) v = Reshape(ve, j) kt = Transpose <perm = [0, 1, 3, 2]> (k) ";
  const std::string gather =
      "z = Constant <value_ints = [0, 0, 1, 1]> () k = Gather <axis = 1> (k2, z) v = Gather <axis = 1> (v2, z) "
      "kt = Transpose <perm = [0, 1, 3, 2]> (k) ";
  for (const std::string& nodes : {repeat, gather}) {
    const Found found = attentions(graph_text(kQ + k2 + v2 + nodes + kScores + kOut));
    ASSERT_EQ(found.all.size(), 1U) << nodes << (found.notes.empty() ? "" : found.notes[0].reason);
    EXPECT_EQ(found.all.front().heads, 4) << nodes;
    EXPECT_EQ(found.all.front().kv_heads, 2) << nodes;
    EXPECT_EQ(found.all.front().k.repeats, 2) << nodes;
  }
}

TEST(Attention, FusedOperators) {
  for (const char* nodes : {
           "c = com.microsoft.Attention <num_heads = 4, unidirectional = 1> (x, wqkv, bqkv) y = MatMul(c, wo)",
           "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) "
           "c = com.microsoft.MultiHeadAttention <num_heads = 4, unidirectional = 1> (q, k, v) y = MatMul(c, wo)",
       }) {
    const Found found = attentions(graph_text(nodes));
    ASSERT_EQ(found.all.size(), 1U) << nodes;
    const Attention& a = found.all.front();
    EXPECT_EQ(a.heads, 4);
    EXPECT_EQ(a.head_width, 2);
    EXPECT_TRUE(a.causal);
    EXPECT_TRUE(a.out.has_value());
    EXPECT_NE(a.fused, nullptr);
    EXPECT_NEAR(a.scale.value_or(0), 0.70710678, 1e-6);
  }
}

TEST(Attention, ASoftcapWhereverItsScaleStands) {
  const std::string cap = "cap = Constant <value_float = 4.0> () ";
  for (const char* scores : {
           "s = MatMul(q, kt) n = Mul(s, scale) d = Div(n, cap) t = Tanh(d) u = Mul(t, cap) p = Softmax(u) ",
           "s = com.microsoft.FusedMatMul <alpha = 0.125> (q, kt) t = Tanh(s) u = Mul(cap, t) p = Softmax(u) ",
       }) {
    const Found found = attentions(graph_text(kQ + kK + kV + cap + scores + kOut));
    ASSERT_EQ(found.all.size(), 1U) << scores;
    EXPECT_NEAR(found.all.front().softcap, 4, 1e-6) << scores;
    EXPECT_NEAR(found.all.front().scale.value_or(0), 0.5, 1e-6) << scores;
  }
}

// What ONNX Runtime makes of Gather from a shape; the target of the joined heads comes from it.
TEST(Attention, ShapesThroughASplit) {
  const std::string split =
      "c = MatMul(p, v) c1 = Transpose <perm = [0, 2, 1, 3]> (c) cs = Shape(c1) b, l, h, w = Split <axis = 0> (cs) "
      "hw = Mul(h, w) t = Concat <axis = 0> (b, l, hw) c2 = Reshape(c1, t) y = MatMul(c2, wo)";
  const Found found = attentions(graph_text(kQ + kK + kV + kScores + split));
  ASSERT_EQ(found.all.size(), 1U);
  EXPECT_TRUE(found.all.front().out);
}

TEST(Attention, ACacheThatWasEmptyBefore) {
  const Found found = attentions(graph_text(
      kQ +
          "k0 = MatMul(x, wk) k1 = Reshape(k0, heads4) kn = Transpose <perm = [0, 2, 1, 3]> (k1) "
          "po = Concat <axis = -2> (past) k = Concat <axis = -2> (po, kn) kt = Transpose <perm = [0, 1, 3, 2]> (k) " +
          kV + kScores + kOut,
      "float[B, S, 8] y", ", float[B, 4, P, 2] past"));
  ASSERT_EQ(found.all.size(), 1U);
  ASSERT_NE(found.all.front().k.past, nullptr);
  EXPECT_EQ(found.all.front().k.past->name(), "past");
  EXPECT_EQ(found.all.front().kv_heads, 4);
}

TEST(Attention, CrossAttentionReadsTwoValues) {
  const Found found = attentions(
      graph_text(kQ +
                     "k0 = MatMul(z, wk) k1 = Reshape(k0, heads4) kt = Transpose <perm = [0, 2, 3, 1]> (k1) "
                     "v0 = MatMul(z, wv) v1 = Reshape(v0, heads4) v = Transpose <perm = [0, 2, 1, 3]> (v1) " +
                     kScores + kOut,
                 "float[B, S, 8] y", ", float[B, T, 8] z"));
  ASSERT_EQ(found.all.size(), 1U);
  EXPECT_TRUE(found.all.front().cross);
  EXPECT_EQ(found.all.front().kv_input->name(), "z");
}

TEST(Attention, NearMissesGetANote) {
  for (const std::string& nodes : {
           // heads of q and k of different width
           "q0 = MatMul(x, wq) w = Constant <value_ints = [0, -1, 2, 4]> () q1 = Reshape(q0, w) "
           "q = Transpose <perm = [0, 2, 1, 3]> (q1) " +
               kK + kV + "s = MatMul(q, q) p = Softmax <axis = -1> (s) " + kOut,
           // no product behind the softmax
           kV + "p = Softmax <axis = -1> (m) " + kOut,
       }) {
    const Found found = attentions(graph_text(nodes, "float[B, S, 8] y", ", float[B, 4, S, S] m"));
    EXPECT_TRUE(found.all.empty()) << nodes;
    EXPECT_EQ(found.notes.size(), 1U) << nodes;
  }
}

TEST(Attention, OtherSoftmaxesAreNone) {
  for (const std::string& nodes : {
           kQ + kK + kV + "s = MatMul(q, kt) n = Mul(s, scale) p = Softmax <axis = 2> (n) " + kOut,  // other axis
           std::string("l = MatMul(x, wq) y = Softmax <axis = -1> (l)"),                             // a classifier
           kQ + kK + kV + kScores + "c = MatMul(v, p) y = Identity(x)",                              // wrong side
       }) {
    EXPECT_TRUE(attentions(graph_text(nodes)).all.empty()) << nodes;
  }
}

TEST(Attention, WithoutAnOutputLinearTheContextIsTheOutput) {
  const Found found = attentions(graph_text(kQ + kK + kV + kScores + "y = MatMul(p, v)", "float[B, 4, S, 2] y"));
  ASSERT_EQ(found.all.size(), 1U);
  EXPECT_FALSE(found.all.front().out);
  EXPECT_EQ(found.all.front().output->name(), "y");
}

}  // namespace
}  // namespace onnxfold::attention_test
