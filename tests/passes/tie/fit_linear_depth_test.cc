#include <gmock/gmock.h>

#include "analysis/structure/blocks.h"
#include "tests/passes/tie/stacks.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::fit_linear_depth_test {
namespace {

using test::ffn_stack;
using test::model_from_text;

// Layers whose weights are base + l / L slope (and, where asked for, hidden neurons turned by l places).
std::unique_ptr<Model> linear_stack(int layers, int turn = 0, double noise = 0) {
  auto model = model_from_text(ffn_stack(layers, 1 << 20, "double"));
  Graph& graph = model->graph();
  for (const auto& [name, rows, cols] :
       {std::tuple{"up", 8, 16}, std::tuple{"down", 16, 8}, std::tuple{"bias", 1, 16}}) {
    const auto base = *to_doubles(*graph.find(std::string(name) + "0")->constant());
    const auto slope = *to_doubles(*graph.find(std::string(name) + "1")->constant());
    const bool columns = cols == 16;
    for (int l = 0; l < layers; ++l) {
      Value* value = graph.find(std::string(name) + std::to_string(l));
      auto numbers = *to_doubles(*value->constant());
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < cols; ++c) {
          const int from = columns ? r * cols + (c + l * turn) % cols : (r + l * turn) % rows * cols + c;
          auto& number = numbers[static_cast<std::size_t>(r * cols + c)];
          number = noise * number + base[static_cast<std::size_t>(from)] +
                   0.3 * l / layers * slope[static_cast<std::size_t>(from)];
        }
      }
      graph.replace_all_uses(
          *value, *graph.add_initializer("line", *from_doubles(DType::kFloat64, value->constant()->dims(), numbers)));
      graph.erase(*value);
    }
  }
  return model;
}

std::int64_t weight_elements(const Graph& graph) {
  std::int64_t elements = 0;
  for (const Value* value : graph.initializers()) {
    if (value->initializer()->rank() == 2) elements += value->initializer()->size();
  }
  return elements;
}

TEST(FitLinearDepth, LayersOnALineAreBaseAndSlope) {
  const auto model = linear_stack(6);
  const auto original = model->clone();
  const auto changed = test::run_pass("fit-linear-depth", *model);
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(weight_elements(model->graph()), 2 * 2 * 8 * 16);
  EXPECT_EQ(test::difference(*original, *model, Precision::kFloat64, 1e-12), "");
}

TEST(FitLinearDepth, TurnedNeuronsAreAlignedFirst) {
  const auto model = linear_stack(6, 3);
  const auto original = model->clone(), unaligned = model->clone();
  const auto changed = test::run_pass("fit-linear-depth", *model);
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(weight_elements(model->graph()), 2 * 2 * 8 * 16);
  EXPECT_EQ(test::difference(*original, *model, Precision::kFloat64, 1e-12), "");
  std::vector<Remark> remarks;
  const auto without = test::run_pass("fit-linear-depth", *unaligned, {{"align", "no"}}, &remarks);
  ASSERT_TRUE(without && !*without);
  ASSERT_FALSE(remarks.empty());
  EXPECT_THAT(remarks[0].reason, testing::HasSubstr("unrelated layers have 33.3 %"));
}

TEST(FitLinearDepth, UnrelatedLayersAreRefused) {
  std::vector<Remark> remarks;
  const auto model = model_from_text(ffn_stack(6));
  const auto changed = test::run_pass("fit-linear-depth", *model, {}, &remarks);
  ASSERT_TRUE(changed && !*changed);
  EXPECT_FALSE(remarks.empty());
  test::expect_unchanged("fit-linear-depth", ffn_stack(2), {{"min-excess", "0"}, {"align", "no"}});
}

TEST(FitLinearDepth, FullRankGivesTheModelBack) {
  const auto model = linear_stack(4, 0, 0.1);
  const auto original = model->clone(), strict = model->clone();
  ASSERT_TRUE(test::run_pass("fit-linear-depth", *model, {{"rank", "8"}}));
  EXPECT_EQ(test::difference(*original, *model, Precision::kFloat64, 1e-12), "");
  ASSERT_TRUE(test::run_pass("fit-linear-depth", *strict));
  EXPECT_NE(test::difference(*original, *strict, Precision::kFloat64, 1e-3), "");
}

// Base and slope are captured from outside of the loop, the depth is what differs between its turns.
TEST(FitLinearDepth, RollsIntoALoop) {
  const auto model = linear_stack(6);
  const auto original = model->clone();
  ASSERT_TRUE(test::run_pass("fit-linear-depth", *model));
  const auto rolled = test::run_pass("roll-layers", *model);
  ASSERT_TRUE(rolled && *rolled);
  EXPECT_TRUE(model->graph().nodes_of("MatMul").empty());
  EXPECT_EQ(test::difference(*original, *model, Precision::kFloat64, 1e-12), "");
}

}  // namespace
}  // namespace onnxfold::fit_linear_depth_test
