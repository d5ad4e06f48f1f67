// Pass merge-parallel-attention on operators that hold the weights of their projections.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::merge_packed_attention_test {
namespace {

const std::string kPass = "merge-parallel-attention";

// com.microsoft Attention holds the weights of q, k and v; 2 heads of 4 columns each.
std::string packed(const std::string& input, const std::string& p, const std::string& attributes = "",
                   const std::string& rest = "") {
  return p + "h = com.microsoft.Attention<num_heads = 2" + attributes + ">(" + input + ", " + p + "w, " + p + "b" +
         rest + ") " + p + "o = MatMul(" + p + "h, " + p + "wo) " + p + " = Add(" + p + "o, " + p + "bo) ";
}
std::string packed_net(const std::string& nodes, const std::string& inputs = "double[B, S, 8] x",
                       const std::string& columns = "24", const std::string& values = "8",
                       const std::string& more = "") {
  std::string constants =
      "double[8] g1 = {}, double[8] b1 = {}, double[8] g2 = {}, double[8] b2 = {}, double[8] ls = {}" + more;
  for (const std::string p : {"a", "c"}) {
    constants += fmt::format(
        ", double[8, {1}] {0}w = {{}}, double[{1}] {0}b = {{}}, double[{2}, 8] {0}wo = {{}}, double[8] "
        "{0}bo = {{}}",
        p, columns, values);
  }
  return "<ir_version: 9, opset_import: [\"\": 17, \"com.microsoft\": 1]> g (" + inputs + ") => (double[B, S, 8] y) <" +
         constants + "> { " + nodes + " }";
}
const std::string kPackedSum = "d = Add(x, a) y = Add(d, c)";
const std::string kPackedOne = "Attention MatMul Add Add";
TEST(MergeParallelAttention, PackedOperators) {
  const auto model = expect_operators(kPass, packed_net(packed("x", "a") + packed("x", "c") + kPackedSum), kPackedOne);
  EXPECT_EQ(model->graph().nodes_of("Attention", "com.microsoft").front()->attr_int("num_heads", 0), 4);
  expect_operators(
      kPass,
      packed_net(packed("x", "a", ", unidirectional = 1") + packed("x", "c", ", unidirectional = 1, scale = 0.7") +
                 "l = Mul(c, ls) d = Add(x, a) y = Add(d, l)"),
      kPackedOne);
  expect_operators(kPass,
                   packed_net("n = LayerNormalization(x, g1, b1) m = LayerNormalization(x, g2, b2) " +
                              packed("n", "a") + packed("m", "c") + kPackedSum),
                   "LayerNormalization " + kPackedOne);
  expect_operators(kPass,
                   packed_net(packed("x", "a", ", qkv_hidden_sizes = [8, 8, 4]") +
                                  packed("x", "c", ", qkv_hidden_sizes = [8, 8, 4]") + kPackedSum,
                              "double[B, S, 8] x", "20", "4"),
                   kPackedOne);
  expect_operators(kPass,
                   packed_net(packed("x", "a", "", ", mk") + packed("x", "c", "", ", mk") + kPackedSum,
                              "double[2, 5, 8] x", "24", "8", ", int32[2, 5] mk = {1, 1, 1, 0, 0, 1, 1, 1, 1, 1}"),
                   kPackedOne);
}
TEST(MergeParallelAttention, KeepsOtherPackedOperators) {
  const auto kept = [](const std::string& nodes, const std::string& inputs = "double[B, S, 8] x") {
    expect_unchanged(kPass, packed_net(nodes, inputs, "24", "8",
                                       ", int32[2, 5] mk = {1, 1, 1, 0, 0, 1, 1, 1, 1, 1}, int32[2, 5] ml = {1, 1, 1, "
                                       "1, 0, 1, 1, 1, 1, 1}, double[1, 2, 5, 5] hb = {}"));
  };
  kept(packed("x", "a", ", unidirectional = 1") + packed("x", "c") + kPackedSum);
  kept(packed("x", "a", "", ", mk") + packed("x", "c", "", ", ml") + kPackedSum, "double[2, 5, 8] x");
  kept(packed("x", "a", "", ", , , hb") + packed("x", "c", "", ", , , hb") + kPackedSum, "double[2, 5, 8] x");
  kept(packed("x", "a") + "r = Relu(x) " + packed("r", "c") + kPackedSum);
  kept("n = LayerNormalization<epsilon = 0.001>(x, g1, b1) m = LayerNormalization(x, g2, b2) " + packed("n", "a") +
       packed("m", "c") + kPackedSum);
  kept(
      "ah = com.microsoft.Attention<num_heads = 2>(x, aw, ab) ao = MatMul(ah, awo) a = Add(ao, abo) "
      "ch = com.microsoft.Attention<num_heads = 4>(x, cw, cb) co = MatMul(ch, cwo) c = Add(co, cbo) " +
      kPackedSum);
}

}  // namespace
}  // namespace onnxfold::test::merge_packed_attention_test
