#include "passes/tie/tied_refit.h"

#include <gmock/gmock.h>

#include "tests/passes/depth/run_on_data.h"
#include "tests/passes/tie/stacks.h"
#include "tests/support/equivalence.h"

namespace onnxfold::tied_refit_test {
namespace {

using test::ffn_stack;
using test::model_from_text;

double damage(const Model& original, const Model& changed, const Dataset& data) {
  return DamageMeter::create(original, data)->measure(changed)->value;
}

// On the data that it was solved on and on other data.
TEST(TiedRefit, WhatTheTiedModelFeedsIsBetterThanWhatTheOriginalFed) {
  const Dataset data = test::normal_data(32, 16, 8);
  Dataset other;
  for (std::size_t batch : {2, 3}) {
    const Dataset more = test::normal_data(32, 16, 8, 4);
    other.batches.push_back(more.batches[batch]);
    other.batch_sizes.push_back(more.batch_sizes[batch]);
  }
  const auto original = model_from_text(ffn_stack(6));
  for (const char* loops : {"2", "3"}) {
    for (const char* rank : {"0", "2"}) {
      const auto plain = original->clone(), refitted = original->clone();
      ASSERT_TRUE(test::run_on_data("tie-layers", *plain, data, {{"loops", loops}, {"rank", rank}, {"sweeps", "0"}}));
      std::vector<Remark> remarks;
      ASSERT_TRUE(test::run_on_data("tie-layers", *refitted, data, {{"loops", loops}, {"rank", rank}}, &remarks));
      EXPECT_LT(damage(*original, *refitted, data), 0.95 * damage(*original, *plain, data)) << loops << rank;
      EXPECT_LT(damage(*original, *refitted, other), 0.95 * damage(*original, *plain, other)) << loops << rank;
      EXPECT_THAT(remarks, testing::Contains(testing::Field(&Remark::reason, testing::HasSubstr("solved anew"))));
      EXPECT_EQ(find_linears(plain->graph()).size(), find_linears(refitted->graph()).size());
    }
  }
}

// Biases are each layer's own, and are solved with the shared weight.
TEST(TiedRefit, BiasesMoveToo) {
  const Dataset data = test::normal_data(32, 16, 8);
  const auto original = model_from_text(ffn_stack(4));
  const auto model = original->clone();
  ASSERT_TRUE(test::run_on_data("tie-layers", *model, data, {{"rank", "0"}}));
  int moved = 0;
  const auto before = find_linears(original->graph()), after = find_linears(model->graph());
  ASSERT_EQ(before.size(), after.size());
  for (std::size_t i = 0; i < after.size(); ++i) {
    ASSERT_EQ(after[i].bias == nullptr, before[i].bias == nullptr);
    if (after[i].bias == nullptr) continue;
    EXPECT_EQ(after[i].bias->uses().size(), 1U);
    moved += *bias_vector(after[i]) != *bias_vector(before[i]) ? 1 : 0;
  }
  EXPECT_GT(moved, 0);
}

// Ways with a name are what their names say.
TEST(TiedRefit, NamedWaysAreLeftAlone) {
  const Dataset data = test::normal_data(32, 16, 8);
  for (const test::OptionMap& named :
       {test::OptionMap{{"start", "average"}}, test::OptionMap{{"factors", "whitened"}}}) {
    const auto model = model_from_text(ffn_stack(4));
    test::OptionMap options = named;
    options["rank"] = "1";
    std::vector<Remark> remarks;
    ASSERT_TRUE(test::run_on_data("tie-layers", *model, data, options, &remarks));
    EXPECT_THAT(remarks,
                testing::Not(testing::Contains(testing::Field(&Remark::reason, testing::HasSubstr("solved anew")))));
  }
}

// Nothing is lost, so nothing moves.
TEST(TiedRefit, ExactTyingStaysExact) {
  const Dataset data = test::normal_data(8, 6, 8);
  const auto original = model_from_text(ffn_stack(4));
  Graph& graph = original->graph();
  for (int i = 2; i < 4; ++i) {
    for (const std::string name : {"up", "down"}) {
      Value* old = graph.find(name + std::to_string(i));
      graph.replace_all_uses(*old,
                             *graph.add_initializer("copy", *graph.find(name + std::to_string(i - 2))->constant()));
    }
  }
  const auto model = original->clone();
  const auto changed = test::run_on_data("tie-layers", *model, data, {{"rank", "2"}});
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(test::difference(*original, *model, Precision::kFloat64, 0), "");
}

}  // namespace
}  // namespace onnxfold::tied_refit_test
