#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::expand_attention_test {
namespace {

// 4 heads of 4, whose scale is 0.5 by default. Constants that the chains need come with `more`.
std::string net(const std::string& nodes, const std::string& inputs, const std::string& outputs,
                const std::string& more = "", int opset = 23) {
  return "<ir_version: 11, opset_import: [\"\" : " + std::to_string(opset) + ", \"com.microsoft\" : 1]> g (" + inputs +
         ") => (" + outputs + ") <float half = {0.5}" + more + "> { " + nodes + " }";
}
const std::string kFlatIn = "float[B, 3, 16] x, float[B, 5, 16] z, float[B, 5, 16] u";
const std::string kFlatOut = "float[B, 3, 16] y";
const std::string kFourIn = "float[B, 4, 3, 4] q, float[B, 4, 5, 4] k, float[B, 4, 5, 4] v";
const std::string kFourOut = "float[B, 4, 3, 4] y";
const std::string kShapes = ", int64[4] heads = {0, 0, 4, 4}, int64[3] joined = {0, 0, 16}";
const std::string kHide = ", float hide = {-inf}";
const std::string kHeads = R"(q1 = Reshape(x, heads) q = Transpose<perm = [0, 2, 1, 3]>(q1)
  k1 = Reshape(z, heads) k = Transpose<perm = [0, 2, 1, 3]>(k1)
  v1 = Reshape(u, heads) v = Transpose<perm = [0, 2, 1, 3]>(v1) )";
const std::string kScores = "kt = Transpose<perm = [0, 1, 3, 2]>(k) h = Mul(q, half) s = MatMul(h, kt) ";
const std::string kPlain = "p = Softmax<axis = -1>(s) y = MatMul(p, v)";
const std::string kJoin = "c1 = Transpose<perm = [0, 2, 1, 3]>(c) y = Reshape(c1, joined)";

void expect_four(const std::string& call, const std::string& chain, const std::string& more = "",
                 const std::string& inputs = "", const std::string& outputs = "") {
  expect_rewrite("expand-attention", net(call, kFourIn + inputs, kFourOut + outputs),
                 net(chain, kFourIn + inputs, kFourOut + outputs, more));
}

TEST(ExpandAttention, RankFour) { expect_four("y = Attention(q, k, v)", kScores + kPlain); }
TEST(ExpandAttention, HeadsSideBySide) {
  expect_rewrite(
      "expand-attention", net("y = Attention<q_num_heads = 4, kv_num_heads = 4>(x, z, u)", kFlatIn, kFlatOut),
      net(kHeads + kScores + "p = Softmax<axis = -1>(s) c = MatMul(p, v) " + kJoin, kFlatIn, kFlatOut, kShapes));
}
TEST(ExpandAttention, ScaleAndSoftCap) {
  expect_four("y = Attention<scale = 1.0>(q, k, v)",
              "kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, kt) " + kPlain);
  expect_four("y = Attention<softcap = 2.0>(q, k, v)",
              kScores + "d = Div(s, two) t = Tanh(d) n = Mul(t, two) p = Softmax<axis = -1>(n) y = MatMul(p, v)",
              ", float two = {2}");
}
TEST(ExpandAttention, GroupedHeads) {
  const std::string inputs = "float[B, 4, 3, 4] q, float[B, 2, 5, 4] a, float[B, 2, 5, 4] b";
  expect_rewrite(
      "expand-attention", net("y = Attention(q, a, b)", inputs, kFourOut),
      net("a1 = Unsqueeze(a, at) a2 = Expand(a1, twice) k = Reshape(a2, full) "
          "b1 = Unsqueeze(b, at) b2 = Expand(b1, twice) v = Reshape(b2, full) " +
              kScores + kPlain,
          inputs, kFourOut, ", int64[1] at = {2}, int64[5] twice = {1, 1, 2, 1, 1}, int64[4] full = {0, 4, -1, 4}"));
}
TEST(ExpandAttention, CausalOfKnownSize) {
  expect_four("y = Attention<is_causal = 1>(q, k, v)",
              kScores + "n = Where(seen, s, hide) p = Softmax<axis = -1>(n) y = MatMul(p, v)",
              kHide + ", bool[3, 5] seen = {1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0}");
}
TEST(ExpandAttention, CausalOfAnySizeWithCache) {
  const std::string inputs =
      "float[B, 4, S, 4] q, float[B, 4, S, 4] k, float[B, 4, S, 4] v, float[B, 4, P, 4] pk, float[B, 4, P, 4] pv";
  const std::string outputs = "float[B, 4, S, 4] y, float[B, 4, T, 4] nk, float[B, 4, T, 4] nv";
  expect_rewrite("expand-attention", net("y, nk, nv = Attention<is_causal = 1>(q, k, v, , pk, pv)", inputs, outputs),
                 net(R"(nk = Concat<axis = 2>(pk, k) nv = Concat<axis = 2>(pv, v)
      kt = Transpose<perm = [0, 1, 3, 2]>(nk) h = Mul(q, half) s = MatMul(h, kt)
      s1 = Shape(q) s2 = Gather(s1, axis) rows = Squeeze(s2) p1 = Shape(pk) p2 = Gather(p1, axis) past = Squeeze(p2)
      end = Add(past, rows) r = Range(past, end, one) column = Reshape(r, down)
      k1 = Shape(nk) k2 = Gather(k1, axis) keys = Squeeze(k2) line = Range(zero, keys, one)
      seen = LessOrEqual(line, column) n = Where(seen, s, hide) p = Softmax<axis = -1>(n) y = MatMul(p, nv))",
                     inputs, outputs,
                     kHide + ", int64[1] axis = {2}, int64 zero = {0}, int64 one = {1}, int64[2] down = {-1, 1}"));
}
TEST(ExpandAttention, BoolMask) {
  expect_four("y = Attention(q, k, v, mask)",
              kScores + "n = Where(mask, s, hide) p = Softmax<axis = -1>(n) o = Where(mask, p, zero) y = MatMul(o, v)",
              kHide + ", float zero = {0}", ", bool[3, 5] mask");
}
TEST(ExpandAttention, RowsThatSeeNothingAreZero) {
  const std::string flags = ", bool[3, 5] mask = {1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0}",
                    numbers = ", float[3, 1] mask = {0, -inf, -2}", zero = kHide + ", float zero = {0}";
  const std::string call = "y = Attention(q, k, v, mask)";
  expect_rewrite("expand-attention", net(call, kFourIn, kFourOut, flags),
                 net(kScores + "n = Where(mask, s, hide) p = Softmax<axis = -1>(n) o = Where(mask, p, zero) "
                               "y = MatMul(o, v)",
                     kFourIn, kFourOut, flags + zero));
  expect_rewrite("expand-attention", net(call, kFourIn, kFourOut, numbers),
                 net(kScores + "n = Add(s, mask) p = Softmax<axis = -1>(n) m = ReduceMax(mask, last) "
                               "seen = Greater(m, hide) o = Where(seen, p, zero) y = MatMul(o, v)",
                     kFourIn, kFourOut, numbers + zero + ", int64[1] last = {-1}"));
}
TEST(ExpandAttention, MaskOfNumbers) {
  expect_four("y = Attention(q, k, v, mask)",
              kScores +
                  "n = Add(s, mask) p = Softmax<axis = -1>(n) m = ReduceMax(mask, last) seen = Greater(m, hide) "
                  "o = Where(seen, p, zero) y = MatMul(o, v)",
              kHide + ", float zero = {0}, int64[1] last = {-1}", ", float[B, 1, 3, 5] mask");
}
TEST(ExpandAttention, MaskSurelyFinite) {
  const std::string choice = "m = Where(see, open, low) ", inputs = kFourIn + ", bool[3, 5] see",
                    numbers = ", float open = {0}, float low = {-1e30}";
  expect_rewrite(
      "expand-attention", net(choice + "y = Attention(q, k, v, m)", inputs, kFourOut, numbers),
      net(choice + kScores + "n = Add(s, m) p = Softmax<axis = -1>(n) y = MatMul(p, v)", inputs, kFourOut, numbers));
}
TEST(ExpandAttention, CausalAndMask) {
  const std::string square = "float[B, 4, 2, 4] q, float[B, 4, 2, 4] k, float[B, 4, 2, 4] v, ",
                    out = "float[B, 4, 2, 4] y", call = "y = Attention<is_causal = 1>(q, k, v, mask)",
                    seen = kHide + ", float zero = {0}, bool[2, 2] seen = {1, 0, 1, 1}";
  expect_rewrite("expand-attention", net(call, square + "bool[2, 2] mask", out),
                 net(kScores + "both = And(mask, seen) n = Where(both, s, hide) p = Softmax<axis = -1>(n) "
                               "o = Where(both, p, zero) y = MatMul(o, v)",
                     square + "bool[2, 2] mask", out, seen));
  expect_rewrite("expand-attention", net(call, square + "float[2, 2] mask", out),
                 net(kScores + "m = Where(seen, mask, hide) r = ReduceMax(m, last) any = Greater(r, hide) "
                               "n = Add(s, m) p = Softmax<axis = -1>(n) o = Where(any, p, zero) y = MatMul(o, v)",
                     square + "float[2, 2] mask", out, seen + ", int64[1] last = {-1}"));
}
TEST(ExpandAttention, ScoresAndPresentThatAreRead) {
  expect_four("y, key, value, s = Attention(q, k, v)", kScores + "key = Identity(k) value = Identity(v) " + kPlain, "",
              "", ", float[B, 4, 5, 4] key, float[B, 4, 5, 4] value, float[B, 4, 3, 5] s");
  expect_four("y, key, value, p = Attention<qk_matmul_output_mode = 3>(q, k, v)", kScores + kPlain, "", "",
              ", float[B, 4, 3, 5] p");
}
TEST(ExpandAttention, MultiHeadAttention) {
  const std::string call = "com.microsoft.MultiHeadAttention<num_heads = 4>";
  expect_rewrite(
      "expand-attention", net("y = " + call + "(x, z, u)", kFlatIn, kFlatOut, "", 17),
      net(kHeads + kScores + "p = Softmax<axis = -1>(s) c = MatMul(p, v) " + kJoin, kFlatIn, kFlatOut, kShapes, 17),
      {{"only-contrib", "true"}});
  const std::string inputs = kFlatIn + ", int32[B, 5] pad";
  expect_rewrite(
      "expand-attention", net("y = " + call + "(x, z, u, bias, pad)", inputs, kFlatOut, ", float[48] bias = {}", 17),
      net(R"(b0 = Slice(bias, i0, i16) x1 = Add(x, b0) b1 = Slice(bias, i16, i32) z1 = Add(z, b1)
      b2 = Slice(bias, i32, i48) u1 = Add(u, b2) c0 = Cast<to = 9>(pad) c1 = Unsqueeze(c0, at) m = Where(c1, zero, low)
      q1 = Reshape(x1, heads) q = Transpose<perm = [0, 2, 1, 3]>(q1)
      k1 = Reshape(z1, heads) k = Transpose<perm = [0, 2, 1, 3]>(k1)
      v1 = Reshape(u1, heads) v = Transpose<perm = [0, 2, 1, 3]>(v1) )" +
              kScores +
              "n = Add(s, m) p = Softmax<axis = -1>(n) c = MatMul(p, v) e1 = Transpose<perm = [0, 2, 1, 3]>(c) "
              "y = Reshape(e1, joined)",
          inputs, kFlatOut,
          kShapes + ", float[48] bias = {}, int64[1] i0 = {0}, int64[1] i16 = {16}, int64[1] i32 = {32}, int64[1] i48 "
                    "= {48}, int64[2] at = {1, 2}, float zero = {0}, float low = {-10000}",
          17));
}
// com.microsoft Attention holds the Linear of q, k and v: 4 heads of 4 on a stream of 8.
std::string packed(const std::string& call, const std::string& inputs = "double[B, 3, 8] x",
                   const std::string& outputs = "double[B, 3, 16] y", const std::string& type = "double") {
  return "<ir_version: 9, opset_import: [\"\" : 17, \"com.microsoft\" : 1]> g (" + inputs + ") => (" + outputs + ") <" +
         type + "[8, 48] w = {}, " + type + "[48] b = {}, " + type + "[8, 40] v = {}> { " + call + " }";
}
const std::string kPacked = "com.microsoft.Attention<num_heads = 4";
const std::string kSplit = "Slice Slice Slice ",
                  kSides = "Reshape Transpose Reshape Transpose Reshape Transpose Transpose Mul MatMul ";
TEST(ExpandAttention, PackedWeights) {
  const std::string pass = "expand-attention", end = "Softmax MatMul Transpose Reshape";
  expect_operators(pass, packed("y = " + kPacked + ">(x, w)"), "MatMul " + kSplit + kSides + end);
  expect_operators(pass, packed("y = " + kPacked + ", scale = 0.3>(x, w, b)"), "MatMul Add " + kSplit + kSides + end,
                   {{"only-contrib", "true"}});
  expect_operators(
      pass,
      packed("y = " + kPacked + ", qkv_hidden_sizes = [16, 16, 8]>(x, v)", "double[B, 3, 8] x", "double[B, 3, 8] y"),
      "MatMul " + kSplit + kSides + end);
  expect_operators(pass, packed("y = " + kPacked + ", unidirectional = 1>(x, w, b)"),
                   "MatMul Add " + kSplit + kSides + "Where " + end);
  expect_operators(pass, packed("y = " + kPacked + ">(x, w, b, m)", "double[B, 3, 8] x, int32[B, 3] m"),
                   "MatMul Add " + kSplit + "Cast Unsqueeze Where " + kSides + "Add " + end);
  expect_operators(pass, packed("y = " + kPacked + ">(x, w, b, , , s)", "double[B, 3, 8] x, double[1, 4, 3, 3] s"),
                   "MatMul Add " + kSplit + kSides + "ReduceMax Greater Add Softmax Where MatMul Transpose Reshape");
}
TEST(ExpandAttention, PaddingThatCountsKeysOrTellsQueriesApart) {
  const std::string pass = "expand-attention", end = kSides + "Add Softmax MatMul Transpose Reshape";
  const std::string range = "Shape Gather Range Cast Unsqueeze Less Unsqueeze Where ";
  expect_operators(pass, packed("y = " + kPacked + ">(x, w, b, m)", "double[B, 3, 8] x, int32[B] m"),
                   "MatMul Add " + kSplit + range + end);
  expect_operators(pass, packed("y = " + kPacked + ">(x, w, b, m)", "double[B, 3, 8] x, int32[B, 3, 3] m"),
                   "MatMul Add " + kSplit + "Cast Unsqueeze Where " + end);
  expect_operators(
      pass,
      packed("at = Constant<value_ints = [1]>() c = ReduceSum<keepdims = 0>(m, at) y = " + kPacked + ">(x, w, b, c)",
             "double[B, 3, 8] x, int32[B, 3] m"),
      "Constant ReduceSum MatMul Add " + kSplit + range + end);
  expect_unchanged(pass, packed("y, n = " + kPacked + ">(x, w, b, m, past)",
                                "double[2, 3, 8] x, int32[2] m, double[2, 2, 4, 5, 4] past",
                                "double[2, 3, 16] y, double[2, 2, 4, 8, 4] n"));
  expect_unchanged(pass, packed("y = " + kPacked + ">(x, w, b, m)", "double[2, 3, 8] x, int32[4] m"));
}
TEST(ExpandAttention, PackedWeightsWithCache) {
  const auto model = expect_operators(
      "expand-attention",
      packed("y, n = " + kPacked + ", unidirectional = 1>(x, w, b, , past)",
             "double[2, 3, 8] x, double[2, 2, 4, 5, 4] past", "double[2, 3, 16] y, double[2, 2, 4, 8, 4] n"),
      "MatMul Add " + kSplit +
          "Gather Gather Reshape Transpose Reshape Transpose Concat Reshape Transpose Concat "
          "Transpose Mul MatMul Where Softmax MatMul Transpose Reshape Unsqueeze Unsqueeze Concat");
}
TEST(ExpandAttention, LeavesPackedWeightsThatHaveNoChain) {
  const auto kept = [](const std::string& call, const std::string& more = "") {
    expect_unchanged("expand-attention", packed(call, "double[B, 3, 8] x" + more));
  };
  kept("y = " + kPacked + ">(x, w, b, m)", ", int32[M] m");  // lengths, or last and first keys
  kept("y = " + kPacked + ">(x, w, b, m)", ", int32[B, 1, 3, 3] m");
  kept("y = " + kPacked + ", do_rotary = 1>(x, w, b)");
  kept("y = com.microsoft.Attention<num_heads = 3>(x, w, b)");
}
TEST(ExpandAttention, MultiHeadAttentionWithCache) {
  expect_operators(
      "expand-attention",
      packed("y, k, v1 = com.microsoft.MultiHeadAttention<num_heads = 4>(q, c, d, , , , pk, pv)",
             "double[2, 3, 16] q, double[2, 3, 16] c, double[2, 3, 16] d, double[2, 4, 5, 4] pk, double[2, "
             "4, 5, 4] pv",
             "double[2, 3, 16] y, double[2, 4, 8, 4] k, double[2, 4, 8, 4] v1"),
      "Reshape Transpose Reshape Transpose Concat Reshape Transpose Concat Transpose Mul MatMul Softmax "
      "MatMul Transpose Reshape");
}
TEST(ExpandAttention, Halves) {
  for (const std::string type : {"float16", "bfloat16"}) {
    const auto net_of = [&](const std::string& call) {
      return model_from_text("<ir_version: 11, opset_import: [\"\" : 23]> g (" + type + "[B, 4, 3, 4] q, " + type +
                             "[B, 4, 5, 4] k, " + type + "[B, 4, 5, 4] v) => (" + type + "[B, 4, 3, 4] y) { " + call +
                             " }");
    };
    const auto model = net_of("y = Attention(q, k, v)");
    const DType half = model->graph().inputs().front()->dtype();
    const auto chain = model->clone();
    ASSERT_TRUE(*run_pass("expand-attention", *chain));
    EXPECT_EQ(operators_of(chain->graph()), "Transpose Mul MatMul Softmax MatMul");
    for (const Node* node : chain->graph().nodes()) EXPECT_EQ(node->output()->dtype(), half) << node->op_type();
    EXPECT_EQ(difference(*model, *chain, Precision::kFloat64, 1e-12, 1), "");
    const auto wide = net_of("y = Attention<softmax_precision = 1>(q, k, v)");
    ASSERT_TRUE(*run_pass("expand-attention", *wide));
    EXPECT_EQ(operators_of(wide->graph()), "Transpose Mul MatMul Cast Softmax Cast MatMul");
    EXPECT_EQ(wide->graph().nodes_of("Softmax").front()->output()->dtype(), DType::kFloat32);
    EXPECT_EQ(wide->graph().outputs().front()->dtype(), half);
  }
}
TEST(ExpandAttention, LeavesGroupQueryAttention) {
  expect_unchanged("expand-attention",
                   packed("y = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2>(q, c, d, , , n, t)",
                          "double[1, 3, 16] q, double[1, 3, 8] c, double[1, 3, 8] d, int32[1] n, int32 t"));
}
TEST(ExpandAttention, UndoesFuseAttention) {
  const auto model = model_from_text(net("y = Attention<q_num_heads = 4, kv_num_heads = 2>(x, a, b)",
                                         "float[B, 3, 16] x, float[B, 5, 8] a, float[B, 5, 8] b", kFlatOut));
  ASSERT_TRUE(*run_pass("expand-attention", *model));
  EXPECT_GT(model->graph().node_count(), 9U);
  ASSERT_TRUE(*run_pass("fuse-attention", *model));
  EXPECT_EQ(model->graph().node_count(), 1U);
}
TEST(ExpandAttention, LeavesWhatHasNoChain) {
  const std::string pass = "expand-attention", mask = ", bool[3, 4] mask";
  // Not known: head counts, widths.
  expect_unchanged(pass, net("y = Attention(q, k, v)", "float[B, H, 3, 4] q, float[B, H, 5, 4] k, float[B, H, 5, 4] v",
                             "float[B, H, 3, 4] y"));
  expect_unchanged(pass, net("y = Attention(q, k, v)", "float[B, 4, 3, D] q, float[B, 4, 5, D] k, float[B, 4, 5, 4] v",
                             "float[B, 4, 3, 4] y"));
  // Scores after the mask, lengths of valid keys, fewer columns than keys.
  expect_unchanged(pass, net("y, key, value, s = Attention<qk_matmul_output_mode = 2>(q, k, v)", kFourIn,
                             kFourOut + ", float[B, 4, 5, 4] key, float[B, 4, 5, 4] value, float[B, 4, 3, 5] s"));
  expect_unchanged(pass, net("y = Attention(q, k, v, , , , n)", kFourIn + ", int64[B] n", kFourOut, "", 24));
  expect_unchanged(pass, net("y = Attention(q, k, v, mask)", kFourIn + mask, kFourOut, "", 24));
  expect_unchanged(pass, net("y = Attention(q, k, v, mask)", kFourIn + ", bool[3, M] mask", kFourOut, "", 24));
  // Not asked for, too old, packed.
  expect_unchanged(pass, net("y = Attention(q, k, v)", kFourIn, kFourOut), {{"only-contrib", "true"}});
  const std::string call = "y = com.microsoft.MultiHeadAttention<num_heads = 4>";
  expect_unchanged(pass, net(call + "(x, z, u)", kFlatIn, kFlatOut, "", 12));
  expect_unchanged(pass, net(call + "(w)", "float[B, 3, 4, 3, 4] w", kFlatOut, "", 17));
}

}  // namespace
}  // namespace onnxfold::test::expand_attention_test
