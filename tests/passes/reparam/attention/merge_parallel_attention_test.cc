#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::merge_parallel_attention_test {
namespace {

const std::string kPass = "merge-parallel-attention";

const std::string kConstants =
    "double[8] s1 = {}, double[8] s2 = {}, double[8] b1 = {}, double[8] b2 = {}, double scale = {0.5}, double other = "
    "{0.7}, "
    "int64[4] split = {0, 0, 2, 4}, int64[3] join = {0, 0, 8}, double[1, 1, 1, 5] keep = {}, double[1, 2, 1, 1] mask = "
    "{}, "
    "int64[5] five = {0, -1, 3, 2, 4}, int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i4 = {4}, "
    "int64[1] n8 = {8}, int64[1] n16 = {16}, int64[1] n24 = {24}, int64[1] last = {-1}, int64[4] rest = {0, 0, -1, 4}, "
    "int64[1] n2 = {2}, int64[1] n4 = {4}, int64 zero = {0}, int64 one = {1}, int64[1] i3 = {3}";

std::string weights(const std::string& p) {
  std::string text;
  for (const char* role : {"q", "k", "v", "o"}) {
    text += ", double[8, 8] " + p + "w" + role + " = {}, double[8] " + p + "b" + role + " = {}";
  }
  return text + ", double[8, 24] " + p + "w = {}, double[24] " + p + "b = {}, double[8, 4] " + p +
         "wkv = {}, double[8, 16] " + p + "wg = {}";
}
std::string net(const std::string& nodes, const std::string& inputs = "double[B, S, 8] x",
                const std::string& outputs = "double[B, S, 8] y", const std::string& more = "") {
  return "<ir_version: 8, opset_import: [\"\" : 18, \"com.microsoft\" : 1]> n (" + inputs + ") => (" + outputs + ") <" +
         kConstants + weights("a") + weights("c") + more + "> { " + nodes + " }";
}
void replace_all(std::string& text, char mark, const std::string& by) {
  for (std::size_t at = text.find(mark); at != std::string::npos; at = text.find(mark)) text.replace(at, 1, by);
}
// $ in the text becomes the prefix; of a rotation $ is its input, @ its output and # the prefix of what is between.
std::string with(std::string text, const std::string& p, const std::string& to = "") {
  replace_all(text, '$', p);
  replace_all(text, '@', to);
  replace_all(text, '#', p + "_");
  return text + " ";
}
std::string projection(const std::string& in, const std::string& p, const std::string& role, const std::string& perm,
                       const std::string& shape = "split") {
  return with("$" + role + "1 = MatMul(" + in + ", $w" + role + ") $" + role + "2 = Add($" + role + "1, $b" + role +
                  ") $" + role + "3 = Reshape($" + role + "2, " + shape + ") $" + role + " = Transpose<perm = [" +
                  perm + "]>($" + role + "3)",
              p);
}
// Scores to the output Linear, from $q, $k (transposed), $v.
std::string core(const std::string& p, const std::string& out, const std::string& scores = "$m = Mul($s, scale)") {
  return with("$s = MatMul($q, $k) " + scores +
                  " $p = Softmax<axis = -1>($m) $x = MatMul($p, $v) $t = Transpose<perm = [0, 2, 1, 3]>($x) "
                  "$r = Reshape($t, join) $o = MatMul($r, $wo) " +
                  out + " = Add($o, $bo)",
              p);
}
std::string attention(const std::string& in, const std::string& p, const std::string& out,
                      const std::string& scores = "$m = Mul($s, scale)", const std::string& shape = "split") {
  return projection(in, p, "q", "0, 2, 1, 3", shape) + projection(in, p, "k", "0, 2, 3, 1", shape) +
         projection(in, p, "v", "0, 2, 1, 3", shape) + core(p, out, scores);
}
std::string norm(const std::string& in, const std::string& out, int which, const std::string& epsilon = "1e-5") {
  const std::string n = std::to_string(which);
  return out + " = LayerNormalization<epsilon = " + epsilon + ">(" + in + ", s" + n + ", b" + n + ") ";
}
const std::string kSum = "d = Add(x, f) y = Add(d, g)";
const std::string kOne =
    "MatMul Add Reshape Transpose MatMul Add Reshape Transpose MatMul Add Reshape Transpose MatMul Mul Softmax MatMul "
    "Transpose Reshape MatMul Add Add";

TEST(MergeParallelAttention, SeparateProjections) {
  expect_operators(kPass, net(attention("x", "a", "f") + attention("x", "c", "g") + kSum), kOne);
  expect_operators(kPass, net(attention("x", "a", "f") + attention("x", "c", "g") + "d = Add(g, f) y = Add(d, x)"),
                   kOne);
}
TEST(MergeParallelAttention, NormsWithOtherGains) {
  const auto model = expect_operators(
      kPass, net(norm("x", "n", 1) + norm("x", "m", 2) + attention("n", "a", "f") + attention("m", "c", "g") + kSum),
      "LayerNormalization " + kOne);
  const Node* product = model->graph().nodes_of("MatMul").front();
  EXPECT_EQ(product->input(1)->constant()->dims(), (Dims{8, 16}));
}
TEST(MergeParallelAttention, LayerScale) {
  expect_operators(
      kPass, net(attention("x", "a", "f") + attention("x", "c", "g") + "i = Mul(g, s1) d = Add(x, f) y = Add(d, i)"),
      kOne);
}
TEST(MergeParallelAttention, OtherScalesGoIntoTheQueries) {
  expect_operators(kPass, net(attention("x", "a", "f") + attention("x", "c", "g", "$m = Div($s, other)") + kSum), kOne);
}
TEST(MergeParallelAttention, MasksThatAreTheSame) {
  const std::string masked = "$z = Mul($s, scale) $m = Add($z, mk)";
  expect_operators(
      kPass,
      net(attention("x", "a", "f", masked) + attention("x", "c", "g", masked) + kSum,
          "double[B, S, 8] x, double[B, 1, S, S] mk"),
      "MatMul Add Reshape Transpose MatMul Add Reshape Transpose MatMul Add Reshape Transpose MatMul Mul Add "
      "Softmax MatMul Transpose Reshape MatMul Add Add");
}
TEST(MergeParallelAttention, PackedThreeHeadsWidth) {
  const auto packed = [](const std::string& p, const std::string& out) {
    return with(
               "$1 = MatMul(x, $w) $2 = Add($1, $b) $3 = Reshape($2, five) $4 = Transpose<perm = [2, 0, 3, 1, 4]>($3) "
               "$5, $6, $7 = Split<axis = 0, num_outputs = 3>($4) $q = Squeeze($5, i0) $8 = Squeeze($6, i0) "
               "$v = Squeeze($7, i0) $k = Transpose<perm = [0, 1, 3, 2]>($8)",
               p) +
           core(p, out);
  };
  expect_operators(kPass, net(packed("a", "f") + packed("c", "g") + kSum),
                   "MatMul Add Reshape Transpose Split Squeeze Squeeze Squeeze Transpose MatMul Mul Softmax MatMul "
                   "Transpose Reshape MatMul Add Add");
}
TEST(MergeParallelAttention, PackedBehindSplitOrSlice) {
  const std::string heads =
      "$q1 = Reshape($5, split) $k1 = Reshape($6, split) $v1 = Reshape($7, split) $q = Transpose<perm = [0, 2, 1, "
      "3]>($q1) "
      "$k = Transpose<perm = [0, 2, 3, 1]>($k1) $v = Transpose<perm = [0, 2, 1, 3]>($v1)";
  const std::string split = "$1 = MatMul(x, $w) $2 = Add($1, $b) $5, $6, $7 = Split<axis = -1>($2, parts) " + heads;
  const std::string slice =
      "$1 = MatMul(x, $w) $2 = Add($1, $b) $5 = Slice($2, i0, n8, i2) $6 = Slice($2, n8, n16, last) "
      "$7 = Slice($2, n16, huge, last) " +
      heads;
  const std::string more = ", int64[3] parts = {8, 8, 8}, int64[1] huge = {9223372036854775807}";
  for (const std::string& text : {split, slice}) {
    const auto model = model_from_text(net(with(text, "a") + core("a", "f") + with(text, "c") + core("c", "g") + kSum,
                                           "double[B, S, 8] x", "double[B, S, 8] y", more));
    const std::string all = operators_of(model->graph());
    const std::size_t half = (all.size() - std::string(" Add Add").size()) / 2;
    expect_operators(kPass,
                     net(with(text, "a") + core("a", "f") + with(text, "c") + core("c", "g") + kSum,
                         "double[B, S, 8] x", "double[B, S, 8] y", more),
                     all.substr(0, half) + " Add");
  }
}
TEST(MergeParallelAttention, PackedHeadByHead) {  // columns [heads, 3, width], as GPT-NeoX and BLOOM have them
  const auto packed = [](const std::string& p, const std::string& out) {
    return with(
               "$1 = MatMul(x, $w) $2 = Add($1, $b) $3 = Reshape($2, mixed) $4 = Transpose<perm = [0, 2, 1, 3]>($3) "
               "$q = Slice($4, i0, n4, last) $8 = Slice($4, n4, n8, last) $v = Slice($4, n8, n12, last) "
               "$k = Transpose<perm = [0, 1, 3, 2]>($8)",
               p) +
           core(p, out);
  };
  expect_operators(
      kPass,
      net(packed("a", "f") + packed("c", "g") + kSum, "double[B, S, 8] x", "double[B, S, 8] y",
          ", int64[4] mixed = {0, 0, 2, 12}, int64[1] n12 = {12}"),
      "MatMul Add Reshape Transpose Slice Slice Slice Transpose MatMul Mul Softmax MatMul Transpose Reshape "
      "MatMul Add Add");
}
TEST(MergeParallelAttention, ShapeArithmetic) {
  const std::string shape =
      "sh = Shape(x) g0 = Gather(sh, zero) g1 = Gather(sh, one) u0 = Unsqueeze(g0, i0) u1 = Unsqueeze(g1, i0) "
      "computed = Concat<axis = 0>(u0, u1, n2, n4) ";
  const auto model =
      expect_operators(kPass,
                       net(shape + attention("x", "a", "f", "$m = Mul($s, scale)", "computed") +
                           attention("x", "c", "g", "$m = Mul($s, scale)", "computed") + kSum),
                       "Shape Gather Gather Unsqueeze Unsqueeze MatMul Add Concat Reshape Transpose MatMul "
                       "Add Concat Reshape Transpose MatMul Add Concat Reshape Transpose MatMul Mul Softmax "
                       "MatMul Transpose Reshape MatMul Add Add");
  EXPECT_EQ(model->graph().nodes_of("Concat").front()->input(2)->constant()->dims(), Dims{1});
}
TEST(MergeParallelAttention, GroupedQueries) {  // 4 query heads on 2 key-value heads
  const auto grouped = [](const std::string& p, const std::string& out) {
    return with(
        "$q1 = MatMul(x, $wg) $q2 = Reshape($q1, four) $q = Transpose<perm = [0, 2, 1, 3]>($q2) "
        "$k1 = MatMul(x, $wk) $k2 = Reshape($k1, split) $k3 = Transpose<perm = [0, 2, 1, 3]>($k2) "
        "$k4 = Unsqueeze($k3, i2) $k5 = Expand($k4, rep) $k6 = Reshape($k5, all) "
        "$k = Transpose<perm = [0, 1, 3, 2]>($k6) $v1 = MatMul(x, $wv) $v2 = Reshape($v1, split) "
        "$v3 = Transpose<perm = [0, 2, 1, 3]>($v2) $v4 = Unsqueeze($v3, i2) $v5 = Expand($v4, rep) "
        "$v = Reshape($v5, all) $s = MatMul($q, $k) $m = Mul($s, scale) $p = Softmax<axis = -1>($m) "
        "$x = MatMul($p, $v) $t = Transpose<perm = [0, 2, 1, 3]>($x) $r = Reshape($t, wide) " +
            out + " = MatMul($r, $wo4)",
        p);
  };
  expect_operators(
      kPass,
      net(grouped("a", "f") + grouped("c", "g") + kSum, "double[2, 3, 8] x", "double[2, 3, 8] y",
          ", int64[4] four = {2, 3, 4, 4}, int64[5] rep = {2, 2, 2, 3, 4}, int64[4] all = {2, 4, 3, 4}, "
          "int64[3] wide = {2, 3, 16}, double[16, 8] awo4 = {}, double[16, 8] cwo4 = {}"),
      "MatMul Reshape Transpose MatMul Reshape Transpose Unsqueeze Expand Reshape Transpose MatMul Reshape "
      "Transpose Unsqueeze Expand Reshape MatMul Mul Softmax MatMul Transpose Reshape MatMul Add");
}
// The halves of a head of four elements turned; `other`: in the other direction.
std::string rotary(const std::string& p, const std::string& out, bool other = false) {
  const auto rotate = [&](const std::string& from, const std::string& to) {
    return with(other
                    ? "#l = Slice($, n2, n4, i3) #h = Slice($, i0, n2, i3) #n = Neg(#h) #c = Concat<axis = -1>(#l, #n) "
                      "#u = Mul($, cos) #w = Mul(#c, sin) @ = Add(#u, #w)"
                    : "#l = Slice($, i0, n2, i3) #h = Slice($, n2, n4, i3) #n = Neg(#h) #c = Concat<axis = -1>(#n, #l) "
                      "#u = Mul($, cos) #w = Mul(#c, sin) @ = Add(#u, #w)",
                from, to);
  };
  return with(
             "$q1 = MatMul(x, $wq) $q2 = Reshape($q1, split) $q3 = Transpose<perm = [0, 2, 1, 3]>($q2) "
             "$k1 = MatMul(x, $wk) $k2 = Reshape($k1, split) $k3 = Transpose<perm = [0, 2, 1, 3]>($k2) "
             "$v1 = MatMul(x, $wv) $v2 = Reshape($v1, split) $v = Transpose<perm = [0, 2, 1, 3]>($v2) ",
             p) +
         rotate(p + "q3", p + "q") + rotate(p + "k3", p + "k4") + with("$k = Transpose<perm = [0, 1, 3, 2]>($k4)", p) +
         core(p, out);
}
const std::string kTables = "cos = Cos(angle) sin = Sin(angle) ";
const std::string kAngles = "double[B, S, 8] x, double[1, 1, S, 4] angle";
TEST(MergeParallelAttention, RotaryEmbedding) {
  const std::string rotated = "Slice Slice Neg Concat Mul Mul Add ";
  expect_operators(kPass, net(kTables + rotary("a", "f") + rotary("c", "g") + kSum, kAngles),
                   "Cos Sin MatMul Reshape Transpose MatMul Reshape Transpose MatMul Reshape Transpose " + rotated +
                       rotated + "Transpose MatMul Mul Softmax MatMul Transpose Reshape MatMul Add Add");
}

std::string by_operator(const std::string& p, const std::string& out, const std::string& op,
                        const std::string& more = "") {
  return with("$q = MatMul(x, $wq) $k = MatMul(x, $wk) $v = MatMul(x, $wv) $c = " + op + "($q, $k, $v" + more +
                  ") $o = "
                  "MatMul($c, $wo) " +
                  out + " = Add($o, $bo)",
              p);
}
std::string newest(const std::string& nodes, const std::string& inputs = "double[B, S, 8] x") {
  std::string text = net(nodes, inputs);
  return text.replace(text.find("18"), 2, "23");
}
TEST(MergeParallelAttention, Operators) {
  const std::string one = "MatMul MatMul MatMul Attention MatMul Add Add";
  const std::string op = "Attention<q_num_heads = 2, kv_num_heads = 2>";
  const auto model = expect_operators(kPass, newest(by_operator("a", "f", op) + by_operator("c", "g", op) + kSum), one);
  EXPECT_EQ(model->graph().nodes_of("Attention").front()->attr_int("q_num_heads", 0), 4);
  expect_operators(kPass,
                   newest(by_operator("a", "f", op, ", mk") + by_operator("c", "g", op, ", mk") + kSum,
                          "double[B, S, 8] x, double[B, 1, S, S] mk"),
                   one);
  const std::string microsoft = "com.microsoft.MultiHeadAttention<num_heads = 2>";
  expect_operators(kPass, net(by_operator("a", "f", microsoft) + by_operator("c", "g", microsoft) + kSum),
                   "MatMul MatMul MatMul MultiHeadAttention MatMul Add Add");
}
TEST(MergeParallelAttention, OperatorsThatAddBiases) {
  const auto biased = [](const std::string& bias, const std::string& other) {
    return net(by_operator("a", "f", "com.microsoft.MultiHeadAttention<num_heads = 2>", bias) +
                   by_operator("c", "g", "com.microsoft.MultiHeadAttention<num_heads = 2, scale = 0.3>", other) + kSum,
               "double[B, S, 8] x", "double[B, S, 8] y", ", double[24] p1 = {}, double[24] p2 = {}");
  };
  const std::string one = "MatMul MatMul MatMul MultiHeadAttention MatMul Add Add";
  expect_operators(kPass, biased(", p1", ", p2"), one);
  expect_operators(kPass, biased("", ", p2"), one);
  expect_operators(kPass, biased(", p1", ""), one);
}
TEST(MergeParallelAttention, KeepsOtherOperators) {
  const std::string op = "Attention<q_num_heads = 2, kv_num_heads = 2>";
  const auto kept = [](const std::string& text) { expect_unchanged(kPass, text); };
  kept(newest(by_operator("a", "f", op) +
              by_operator("c", "g", "Attention<q_num_heads = 2, kv_num_heads = 2, is_causal = 1>") + kSum));
  kept(
      newest(by_operator("a", "f", op) + by_operator("c", "g", "Attention<q_num_heads = 4, kv_num_heads = 4>") + kSum));
  kept(newest(by_operator("a", "f", op, ", mk") + by_operator("c", "g", op, ", mk") + kSum,
              "double[B, S, 8] x, double[B, 2, S, S] mk"));
  kept(newest(by_operator("a", "f", op) + attention("x", "c", "g") + kSum));
}

// Two sets of q, k and v whose scores are added before one softmax.
std::string joined(const std::string& first, const std::string& second, const std::string& outputs,
                   const std::string& rest = "", const std::string& in = "x", const std::string& other = "x") {
  std::string text;
  for (const std::string p : {"a", "c"}) {
    const std::string& from = p == "a" ? in : other;
    text += projection(from, p, "q", "0, 2, 1, 3") + projection(from, p, "k", "0, 2, 3, 1") +
            projection(from, p, "v", "0, 2, 1, 3") + with("$s = MatMul($q, $k)", p);
  }
  text += with(first, "a") + with(second, "c") + "j = Add(am, cm) p = Softmax<axis = -1>(j) ";
  for (const std::string p : {"a", "c"}) {
    text += with(
        "$x = MatMul(p, $v) $t = Transpose<perm = [0, 2, 1, 3]>($x) $r = Reshape($t, join) $o = MatMul($r, $wo) "
        "$e = Add($o, $bo)",
        p);
  }
  return text + outputs + " " + rest;
}
const std::string kScale = "$m = Mul($s, scale)";
const std::string kJoinedSum = "d = Add(x, ae) y = Add(d, ce)";
const std::string kJoinedOne =
    "MatMul Add Reshape Transpose MatMul Add Reshape Transpose MatMul Add Reshape Transpose MatMul Mul Softmax MatMul "
    "Transpose Reshape MatMul Add Add";

TEST(MergeParallelAttention, JoinedBeforeTheSoftmax) {
  const auto model = expect_operators(kPass, net(joined(kScale, kScale, kJoinedSum)), kJoinedOne);
  // Two heads as before, each of eight elements.
  EXPECT_EQ(model->graph().nodes_of("Reshape").front()->input(1)->constant()->dims(), Dims{4});
  const auto shape = to_int64s(*model->graph().nodes_of("Reshape").front()->input(1)->constant());
  ASSERT_TRUE(shape.has_value());
  EXPECT_EQ(*shape, (std::vector<std::int64_t>{0, 0, 2, 8}));
}
TEST(MergeParallelAttention, JoinedWithOtherScalesNormsAndLayerScale) {
  expect_operators(
      kPass,
      net(norm("x", "n", 1) + norm("x", "m", 2) +
          joined(kScale, "$m = Div($s, other)", "g = Mul(ce, s1) d = Add(x, ae) y = Add(d, g)", "", "n", "m")),
      "LayerNormalization " + kJoinedOne);
}
TEST(MergeParallelAttention, KeepsJoinedAttentionsThatDoNotFit) {
  const auto kept = [](const std::string& text, const std::string& outputs = "double[B, S, 8] y") {
    expect_unchanged(kPass, net(text, "double[B, S, 8] x", outputs));
  };
  kept(joined(kScale, kScale, kJoinedSum, "z = Identity(p)"), "double[B, S, 8] y, double[B, H, S, T] z");
  kept(joined(kScale, kScale, kJoinedSum, "z = Identity(cs)"), "double[B, S, 8] y, double[B, H, S, T] z");
  kept(joined(kScale, kScale, kJoinedSum, "z = Identity(am)"), "double[B, S, 8] y, double[B, H, S, T] z");
  kept("r0 = Relu(x) " + joined(kScale, kScale, kJoinedSum, "", "x", "r0"));
  kept(joined(kScale, kScale, "d = Add(x, ae) r0 = Relu(d) y = Add(r0, ce)"));
  kept(norm("x", "n", 1) + norm("x", "m", 2, "1e-6") + joined(kScale, kScale, kJoinedSum, "", "n", "m"));
}

void expect_kept(const std::string& text) { expect_unchanged(kPass, text); }
TEST(MergeParallelAttention, KeepsOtherInputsAndStatistics) {
  expect_kept(net(attention("x", "a", "f") + "r = Relu(x) " + attention("r", "c", "g") + kSum));
  expect_kept(net(attention("x", "a", "f") + "d = Add(x, f) " + attention("d", "c", "g") + "y = Add(d, g)"));
  expect_kept(
      net(norm("x", "n", 1) + norm("x", "m", 2, "1e-6") + attention("n", "a", "f") + attention("m", "c", "g") + kSum));
}
TEST(MergeParallelAttention, KeepsOtherMasks) {
  const std::string one = "$z = Mul($s, scale) $m = Add($z, mk)", two = "$z = Mul($s, scale) $m = Add($z, ml)";
  expect_kept(net(attention("x", "a", "f", one) + attention("x", "c", "g", two) + kSum,
                  "double[B, S, 8] x, double[B, 1, S, S] mk, double[B, 1, S, S] ml"));
  expect_kept(
      net(attention("x", "a", "f", one) + attention("x", "c", "g") + kSum, "double[B, S, 8] x, double[B, 1, S, S] mk"));
  // One row of scores for each head: a merged attention would need another mask.
  expect_kept(net(attention("x", "a", "f", one) + attention("x", "c", "g", one) + kSum,
                  "double[B, S, 8] x, double[B, 2, S, S] mk"));
}
TEST(MergeParallelAttention, KeepsOtherHeadWidths) {
  const std::string more = ", int64[4] wide = {0, 0, 4, 2}";
  expect_kept(net(attention("x", "a", "f") + attention("x", "c", "g", "$m = Mul($s, scale)", "wide") + kSum,
                  "double[B, S, 8] x", "double[B, S, 8] y", more));
}
TEST(MergeParallelAttention, KeepsOtherRotations) {
  expect_kept(net(kTables + rotary("a", "f") + rotary("c", "g", true) + kSum, kAngles));
  std::string angles = rotary("c", "g");
  for (std::size_t at = angles.find(", sin"); at != std::string::npos; at = angles.find(", sin"))
    angles.replace(at, 5, ", cos");
  expect_kept(net(kTables + rotary("a", "f") + angles + kSum, kAngles));
}
TEST(MergeParallelAttention, KeepsNormsOfQueries) {
  const auto normed = [](const std::string& p, const std::string& out) {
    return projection("x", p, "q", "0, 2, 1, 3") + projection("x", p, "k", "0, 2, 3, 1") +
           projection("x", p, "v", "0, 2, 1, 3") +
           with(
               "$n = LayerNormalization($q, small) $s = MatMul($n, $k) $m = Mul($s, scale) $p = Softmax<axis = -1>($m) "
               "$x = MatMul($p, $v) $t = Transpose<perm = [0, 2, 1, 3]>($x) $r = Reshape($t, join) " +
                   out + " = MatMul($r, $wo)",
               p);
  };
  expect_kept(net(normed("a", "f") + normed("c", "g") + kSum, "double[B, S, 8] x", "double[B, S, 8] y",
                  ", double[4] small = {}"));
}
TEST(MergeParallelAttention, KeepsWhatOthersRead) {
  for (const std::string extra : {"cp", "g", "cq2"}) {
    const std::string type = extra == "cp" ? "double[B, H, S, T] z" : "double[B, S, 8] z";
    expect_kept(net(attention("x", "a", "f") + attention("x", "c", "g") + kSum + " z = Identity(" + extra + ")",
                    "double[B, S, 8] x", "double[B, S, 8] y, " + type));
  }
}
TEST(MergeParallelAttention, KeepsOneAttention) {
  expect_kept(net(attention("x", "a", "f") + "y = Add(x, f)"));
  expect_kept(net(attention("x", "a", "f") + attention("x", "c", "g") + "d = Sub(x, f) y = Add(d, g)"));
}

}  // namespace
}  // namespace onnxfold::test::merge_parallel_attention_test
