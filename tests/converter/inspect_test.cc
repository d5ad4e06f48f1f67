#include "converter/inspect.h"

#include <gmock/gmock.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::inspect_test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

TEST(InspectStructure, BlocksAsATableAndWhatWasNotUnderstood) {
  const auto model = test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 20]>
    g (float[B, S, 8] x, int64 ax) => (float[B, S, 8] y) <float[8] gain = {}, float[8, 32] w1 = {}, float[32, 8] w2 = {}> {
      m = LayerNormalization(x, gain)  c = CumSum(m, ax)  x1 = Add(x, c)
      n = LayerNormalization(x1, gain)  u = MatMul(n, w1)  a = Gelu(u)  f = MatMul(a, w2)  y = Add(x1, f)
    })");
  const InspectedStructure structure = inspect_structure(*model);
  ASSERT_THAT(structure.blocks, SizeIs(1));
  EXPECT_EQ(structure.blocks[0].kind, "pre-norm");
  EXPECT_EQ(structure.blocks[0].width, 8);
  EXPECT_EQ(structure.blocks[0].parameters, 8 + 2 * 8 * 32);
  ASSERT_THAT(structure.blocks[0].sublayers, SizeIs(2));
  EXPECT_EQ(structure.blocks[0].sublayers[1].hidden, 32);
  ASSERT_THAT(structure.notes, SizeIs(1));
  const std::string text = structure_text(structure, 4 * (8 + 2 * 8 * 32));
  EXPECT_THAT(text, HasSubstr("100.0 %  unknown, feed-forward\n"));
  EXPECT_THAT(text, Not(HasSubstr("outside")));
  EXPECT_THAT(structure_text(structure, 8 * (8 + 2 * 8 * 32)), HasSubstr("outside     2.1 kB of weights (50.0 %)"));
  EXPECT_THAT(text, HasSubstr("not seen    Add of output 'x1': a residual branch of an unknown kind: CumSum"));
}

// One of two experts chosen, all computed, and a shared one of another width behind a gate (Qwen2-MoE).
TEST(InspectStructure, WidthsOfExperts) {
  const auto model = test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
    g (float[B, S, 8] x) => (float[B, S, 8] y) <float[8] gain = {}, float[8, 2] router = {}, int64[1] one = {1},
       int64[1] last = {-1}, int64 zero = {0}, int64 first = {1}, float[8, 24] a1 = {}, float[24, 8] a2 = {},
       float[8, 24] b1 = {}, float[24, 8] b2 = {}, float[8, 32] s1 = {}, float[32, 8] s2 = {}, float[8, 1] sg = {}> {
      n = LayerNormalization(x, gain) r = MatMul(n, router) p = Softmax<axis = -1>(r) v, i = TopK(p, one)
      e0 = Equal(i, zero) c0 = Cast<to = 1>(e0) w0 = Mul(v, c0) e1 = Equal(i, first) c1 = Cast<to = 1>(e1) w1 = Mul(v, c1)
      u = MatMul(n, a1) ua = Relu(u) f = MatMul(ua, a2) g0 = Mul(f, w0)
      k = MatMul(n, b1) ka = Relu(k) h = MatMul(ka, b2) g1 = Mul(h, w1) m = Add(g0, g1)
      t = MatMul(n, s1) ta = Relu(t) q = MatMul(ta, s2) z = MatMul(n, sg) za = Sigmoid(z) o = Mul(q, za)
      all = Add(m, o) y = Add(x, all)
    })");
  const InspectedStructure structure = inspect_structure(*model);
  ASSERT_THAT(structure.blocks, SizeIs(1));
  ASSERT_THAT(structure.blocks[0].sublayers, SizeIs(1));
  const InspectedSublayer& mixture = structure.blocks[0].sublayers[0];
  EXPECT_EQ(mixture.hidden, 24);
  EXPECT_EQ(mixture.shared_experts, 1);
  EXPECT_EQ(mixture.shared_hidden, 32);
  EXPECT_THAT(structure_text(structure, 1000), HasSubstr("mixture of experts (1 of 2) + shared expert (32)"));
}

TEST(InspectStructure, NothingToSayOfAModelWithoutBlocks) {
  const auto model = test::model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 20]> g (float[2] x) => (float[2] y) { y = Relu(x) }");
  const InspectedStructure structure = inspect_structure(*model);
  EXPECT_EQ(structure_text(structure, 0), "");
  EXPECT_THAT(structure_text(structure, 100), HasSubstr("blocks      none: "));
}

}  // namespace
}  // namespace onnxfold::inspect_test
