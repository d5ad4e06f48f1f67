#include "passes/tie/loop_plan.h"

#include <gmock/gmock.h>

namespace onnxfold::loop_plan_test {
namespace {

using testing::ElementsAre;

TEST(LoopPlan, IndexTables) {
  EXPECT_THAT(*looped_layers(Looping::kCycle, 6, 2), ElementsAre(0, 1, 2, 0, 1, 2));
  EXPECT_THAT(*looped_layers(Looping::kSequence, 6, 2), ElementsAre(0, 0, 1, 1, 2, 2));
  EXPECT_THAT(*looped_layers(Looping::kCycleReversed, 6, 2), ElementsAre(0, 1, 2, 2, 1, 0));
  EXPECT_THAT(*looped_layers(Looping::kCycle, 6, 3), ElementsAre(0, 1, 0, 1, 0, 1));
  EXPECT_THAT(*looped_layers(Looping::kSequence, 6, 3), ElementsAre(0, 0, 0, 1, 1, 1));
  EXPECT_THAT(*looped_layers(Looping::kCycleReversed, 6, 3), ElementsAre(0, 1, 1, 0, 1, 0));
  EXPECT_THAT(*looped_layers(Looping::kCycle, 3, 3), ElementsAre(0, 0, 0));
  EXPECT_THAT(*looped_layers(Looping::kCycle, 3, 1), ElementsAre(0, 1, 2));
}

TEST(LoopPlan, EveryUniqueLayerIsUsedOnceALoop) {
  for (const Looping looping : {Looping::kCycle, Looping::kSequence, Looping::kCycleReversed}) {
    for (const std::size_t loops : {1, 2, 3, 4, 6, 12}) {
      const auto table = *looped_layers(looping, 12, loops);
      for (std::size_t unique = 0; unique < 12 / loops; ++unique) {
        EXPECT_EQ(static_cast<std::size_t>(std::count(table.begin(), table.end(), unique)), loops);
      }
    }
  }
}

TEST(LoopPlan, LoopsMustDivideTheLayers) {
  const auto table = looped_layers(Looping::kCycle, 7, 2);
  ASSERT_FALSE(table);
  EXPECT_EQ(table.error().code, Code::kInvalidArgument);
  EXPECT_THAT(table.error().message, testing::HasSubstr("7 layers"));
}

TEST(LoopPlan, StepwiseKeepsTheFirstAndTheLast) {
  EXPECT_THAT(stepwise_layers(6, 3), ElementsAre(0, 2, 5));  // the paper's: layers 1, 3, 6
  EXPECT_THAT(stepwise_layers(12, 1), ElementsAre(0));
  for (std::size_t layers = 2; layers <= 40; ++layers) {
    for (std::size_t unique = 2; unique <= layers; ++unique) {
      const auto chosen = stepwise_layers(layers, unique);
      EXPECT_EQ(chosen.front(), 0U);
      EXPECT_EQ(chosen.back(), layers - 1);
      for (std::size_t i = 1; i < unique; ++i) EXPECT_LT(chosen[i - 1], chosen[i]);
    }
  }
}

}  // namespace
}  // namespace onnxfold::loop_plan_test
