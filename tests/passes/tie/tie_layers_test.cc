#include <gmock/gmock.h>

#include <set>

#include "analysis/structure/blocks.h"
#include "tests/passes/depth/run_on_data.h"
#include "tests/passes/tie/stacks.h"

namespace onnxfold {
namespace {

using test::ffn_stack;
using test::model_from_text;

std::size_t unique_weights(const Graph& graph) {
  std::set<const Value*> found;
  for (const Linear& linear : find_linears(graph)) found.insert(linear.weight);
  return found.size();
}

TEST(TieLayers, StrictTyingKeepsOneWeightAGroup) {
  for (const int loops : {2, 3, 6}) {
    const auto model = model_from_text(ffn_stack(6));
    const auto changed = test::run_pass("tie-layers", *model, {{"loops", std::to_string(loops)}});
    ASSERT_TRUE(changed && *changed);
    EXPECT_EQ(unique_weights(model->graph()), static_cast<std::size_t>(12 / loops));
    EXPECT_EQ(find_blocks(model->graph()).blocks.size(), 6U);
  }
}

TEST(TieLayers, OneLoopAndTiedLayersAreNoChange) {
  test::expect_unchanged("tie-layers", ffn_stack(4), {{"loops", "1"}});
  test::expect_unchanged("tie-layers", ffn_stack(4, 2), {{"loops", "2"}});
}

TEST(TieLayers, LoopsMustDivideTheBlocks) {
  test::expect_error("tie-layers", ffn_stack(5), "5 layers cannot be 2 loops");
  const auto model = model_from_text(ffn_stack(5));
  const auto changed = test::run_pass("tie-layers", *model, {{"protect-first", "1"}});
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(unique_weights(model->graph()), 6U);
}

TEST(TieLayers, BlocksThatDifferAreLeftAlone) {
  const auto model = model_from_text(ffn_stack(4, 1 << 20, "float", 2));
  std::vector<Remark> remarks;
  const auto changed = test::run_pass("tie-layers", *model, {}, &remarks);
  ASSERT_TRUE(changed && !*changed);
  ASSERT_FALSE(remarks.empty());
  EXPECT_EQ(remarks[0].node, "block 2");
  EXPECT_THAT(remarks[0].reason, testing::HasSubstr("12 hidden units"));
}

}  // namespace
}  // namespace onnxfold
