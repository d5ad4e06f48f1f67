#include "converter/inspect.h"

#include <gmock/gmock.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold {
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

TEST(InspectStructure, NothingToSayOfAModelWithoutBlocks) {
  const auto model = test::model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 20]> g (float[2] x) => (float[2] y) { y = Relu(x) }");
  const InspectedStructure structure = inspect_structure(*model);
  EXPECT_EQ(structure_text(structure, 0), "");
  EXPECT_THAT(structure_text(structure, 100), HasSubstr("blocks      none: "));
}

}  // namespace
}  // namespace onnxfold
