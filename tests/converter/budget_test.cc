#include "converter/budget.h"

#include <gtest/gtest.h>

#include <random>

#include "analysis/compare/damage.h"
#include "converter/model_files.h"
#include "converter/pipeline.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::budget_test {
namespace {

std::string numbers(std::int64_t count, double scale, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::string text;
  for (std::int64_t i = 0; i < count; ++i) text += (i == 0 ? "" : ", ") + std::to_string(scale * normal(random));
  return text;
}

// Four products of very unlike weight for the result.
std::unique_ptr<Model> model() {
  std::string initializers, nodes, sum = "x";
  const double scales[] = {1, 0.2, 0.05, 0.01};
  for (int i = 0; i < 4; ++i) {
    const std::string n = std::to_string(i);
    initializers += (i == 0 ? "" : ", ") + ("float[64, 64] w" + n) + " = {" +
                    numbers(4096, scales[i], static_cast<std::uint64_t>(i + 1)) + "}";
    nodes += "p" + n + " = MatMul(x, w" + n + ")\n" + (i == 3 ? "y" : "s" + n) + " = Add(" + sum + ", p" + n + ")\n";
    sum = "s" + n;
  }
  return test::model_from_text("<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 64] x) => (float[N, 64] y) <" +
                               initializers + "> { " + nodes + " }");
}

struct Search {
  std::unique_ptr<Model> before = model();
  Dataset data = *generate_dataset(*before, 11), calibration = *generate_dataset(*before, 12);
  BudgetOptions options;

  Search() {
    options.before = before.get();
    options.calibration = &calibration;
    options.data = &data;
    RecipeStep step;
    step.pass = "rtn-search";
    step.options["scales"] = "float16";
    options.recipe.steps.push_back(step);
  }
  std::unique_ptr<Model> made(const Recipe& recipe) const {
    auto after = before->clone();
    PipelineOptions pipeline;
    pipeline.calibration = &calibration;
    EXPECT_TRUE(run_pipeline(*after, recipe, pipeline));
    return after;
  }
  double damage(const Recipe& recipe) const {
    return DamageMeter::create(*before, data)->measure(*made(recipe))->value;
  }
};

const BudgetAttempt* chosen(const BudgetFacts& facts) {
  for (const BudgetAttempt& attempt : facts.attempts) {
    if (attempt.verdict == "chosen") return &attempt;
  }
  return nullptr;
}

TEST(Budget, BitsAreKeptAndMixedFormatsBeatUniformOnes) {
  Search search;
  search.options.goal.bits = 4.5;
  const auto choice = choose_for_budget(search.options);
  ASSERT_TRUE(choice) << choice.error().message;
  const BudgetAttempt* best = chosen(choice->facts);
  ASSERT_NE(best, nullptr);
  EXPECT_LE(best->bits, 4.5);
  for (const BudgetAttempt& attempt : choice->facts.attempts) EXPECT_LE(*best->value, *attempt.value);
  Recipe uniform = search.options.recipe;
  uniform.steps[0].options["block"] = "32";
  EXPECT_LT(search.damage(choice->recipe), 0.7 * search.damage(uniform));
}

TEST(Budget, TheFileHasAtMostTheSizeThatWasAskedFor) {
  Search search;
  const auto before_bytes = predict_save(*search.before, "m.onnx")->file_bytes;
  for (const std::int64_t part : {3, 5, 6}) {
    search.options.goal.size = before_bytes / part;
    const auto choice = choose_for_budget(search.options);
    ASSERT_TRUE(choice) << choice.error().message;
    const auto after = search.made(choice->recipe);
    stamp(*after, to_line(choice->recipe), "");
    SaveOptions save;
    save.described = described_values(*search.before);
    const auto stats = predict_save(*after, "m.onnx", save);
    ASSERT_TRUE(stats);
    EXPECT_LE(stats->file_bytes, *search.options.goal.size);
    EXPECT_GT(stats->file_bytes, *search.options.goal.size * 8 / 10);
  }
}

TEST(Budget, WhatCannotBeReachedIsRefusedWithTheLeast) {
  Search search;
  search.options.goal.bits = 2;
  const auto bits = choose_for_budget(search.options);
  ASSERT_FALSE(bits);
  EXPECT_EQ(bits.error().code, Code::kInvalidArgument);
  EXPECT_NE(bits.error().message.find("the least is 2."), std::string::npos) << bits.error().message;
  search.options.goal = {};
  search.options.goal.size = 1000;
  const auto size = choose_for_budget(search.options);
  ASSERT_FALSE(size);
  EXPECT_NE(size.error().message.find("smallest file"), std::string::npos) << size.error().message;
}

TEST(Budget, AutoTakesTheSmallestThatPassesAndSaysWhatItTried) {
  Search search;
  search.options.goal.automatic = true;
  search.options.gates.max_rel_l2 = 0.05;
  const auto choice = choose_for_budget(search.options);
  ASSERT_TRUE(choice) << choice.error().message;
  const BudgetAttempt* best = chosen(choice->facts);
  ASSERT_NE(best, nullptr);
  EXPECT_LE(*best->value, 0.05);
  EXPECT_GE(choice->facts.attempts.size(), 3U);
  int failed = 0;
  for (const BudgetAttempt& attempt : choice->facts.attempts) {
    if (attempt.verdict == "passed") {
      EXPECT_GE(attempt.bytes, best->bytes);
    }
    failed += attempt.verdict == "FAILED" ? 1 : 0;
    EXPECT_NE(attempt.metric.find("max-rel-l2"), std::string::npos);
  }
  EXPECT_GE(failed, 1);
}

// What the gates judge is the model that the recipe makes of all the data, not of the part that sensitivities see.
TEST(Budget, AutoJudgesTheModelThatWillBeWritten) {
  Search search;
  const Dataset all = *generate_dataset(*search.before, 13);
  search.options.goal.automatic = true;
  search.options.gates.max_rel_l2 = 0.05;
  search.options.learned = &all;
  search.options.recipe.steps[0].pass = "gptq";
  const auto choice = choose_for_budget(search.options);
  ASSERT_TRUE(choice) << choice.error().message;
  auto after = search.before->clone();
  PipelineOptions pipeline;
  pipeline.calibration = &all;
  ASSERT_TRUE(run_pipeline(*after, choice->recipe, pipeline));
  ProofOptions proving;
  proving.gates = search.options.gates;
  const auto proof = prove(*search.before, *after, search.data, proving);
  ASSERT_TRUE(proof);
  EXPECT_EQ(proof->gates.front().measured, *chosen(choice->facts)->value);
}

TEST(Budget, AutoLeavesTheWeightsAloneWhenNothingPasses) {
  Search search;
  search.options.goal.automatic = true;
  search.options.gates.max_rel_l2 = 1e-9;
  const auto choice = choose_for_budget(search.options);
  ASSERT_TRUE(choice) << choice.error().message;
  EXPECT_EQ(chosen(choice->facts), nullptr);
  EXPECT_TRUE(choice->recipe.steps.empty());
}

TEST(Budget, WithoutCalibrationItSaysSo) {
  Search search;
  search.options.calibration = nullptr;
  search.options.goal.bits = 4.5;
  const auto choice = choose_for_budget(search.options);
  ASSERT_TRUE(choice) << choice.error().message;
  ASSERT_FALSE(choice->facts.notes.empty());
  EXPECT_NE(choice->facts.notes[0].find("generated"), std::string::npos);
}

TEST(Budget, AModelWithoutWeightsIsRefused) {
  Search search;
  search.before = test::model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }");
  search.options.before = search.before.get();
  search.options.calibration = nullptr;
  search.options.goal.bits = 4;
  EXPECT_FALSE(choose_for_budget(search.options));
}

TEST(Budget, TheSameChoiceEveryTime) {
  Search one, two;
  one.options.goal.bits = two.options.goal.bits = 3.5;
  EXPECT_EQ(to_yaml(choose_for_budget(one.options)->recipe), to_yaml(choose_for_budget(two.options)->recipe));
}

}  // namespace
}  // namespace onnxfold::budget_test
