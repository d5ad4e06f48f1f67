#include "converter/recipe.h"

#include <gmock/gmock.h>

#include <fstream>

#include "passes/registry.h"
#include "tests/support/paths.h"

namespace onnxfold::recipe_test {
namespace {

using testing::HasSubstr;

std::string write_yaml(const std::string& text) {
  const std::string path = test::temp_dir() + "/mine.yaml";
  std::ofstream(path) << text;
  return path;
}

void expect_yaml_error(const std::string& text, const std::string& part) {
  const auto recipe = load_recipe(write_yaml(text));
  ASSERT_FALSE(recipe) << text;
  EXPECT_EQ(recipe.error().code, Code::kInvalidArgument);
  EXPECT_THAT(recipe.error().message, HasSubstr(part));
}

TEST(Recipe, CleanIsBuiltIn) {
  const auto recipe = load_recipe("clean");
  ASSERT_TRUE(recipe) << recipe.error().message;
  EXPECT_EQ(recipe->name, "clean");
  EXPECT_FALSE(recipe->steps.empty());
}

TEST(Recipe, PrintedYamlReadsBackTheSame) {
  const std::string yaml = to_yaml(*load_recipe("clean"));
  const auto again = load_recipe(write_yaml(yaml));
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(to_yaml(*again), yaml);
}

TEST(Recipe, ReadsOptionsGroupsAndOtherRecipes) {
  const auto recipe =
      load_recipe(write_yaml("steps:\n  - recipe: clean\n  - until-stable: [remove-identity, remove-dead-nodes]\n"
                             "  - fold-constants: {max-growth: 12}\n"));
  ASSERT_TRUE(recipe) << recipe.error().message;
  EXPECT_EQ(recipe->name, "mine");
  EXPECT_THAT(to_line(*recipe),
              HasSubstr("until-stable(remove-identity remove-dead-nodes) fold-constants:max-growth=12"));
}

TEST(Recipe, ErrorsNameFileAndLine) {
  expect_yaml_error("name: x\nsteps:\n  - remove-idenity\n",
                    "mine.yaml:3: there is no pass 'remove-idenity'; did you mean 'remove-identity'?");
  expect_yaml_error("name: x\nsteps:\n  - fold-constants: {max-grwth: 1}\n", "mine.yaml:3: ");
  expect_yaml_error("name: x\nstep: []\n", "mine.yaml:2: unknown key 'step'");
  expect_yaml_error("name: [\n", "mine.yaml:");
  expect_yaml_error("steps: []\n", "at least one step");
  expect_yaml_error("- remove-identity\n", "expected the keys");
  expect_yaml_error("steps:\n  - until-stable: []\n", "mine.yaml:2: until-stable needs");
  expect_yaml_error("steps:\n  - recipe: nothing\n", "there is no recipe or file 'nothing'");
}

TEST(Recipe, ARecipeThatIncludesItselfIsRefused) {
  const std::string path = test::temp_dir() + "/loop.yaml";
  std::ofstream(path) << "steps:\n  - recipe: " << path << "\n";
  const auto recipe = load_recipe(path);
  ASSERT_FALSE(recipe);
  EXPECT_THAT(recipe.error().message, HasSubstr("too deeply"));
}

TEST(Recipe, AMisspeltNameGetsTheNearest) {
  const auto recipe = load_recipe("claen");
  ASSERT_FALSE(recipe);
  EXPECT_EQ(recipe.error().message, "there is no recipe or file 'claen'; did you mean 'clean'?");
}

TEST(ParseStep, ReadsOptions) {
  const auto step = parse_step("fold-constants:max-growth=7");
  ASSERT_TRUE(step) << step.error().message;
  EXPECT_EQ(step->options.at("max-growth"), "7");
}

TEST(ParseStep, RefusesWhatItCannotRead) {
  for (const char* text :
       {"", "nothing", "fold-constants:max-growth", "fold-constants:=3", "fold-constants:max-growth=x",
        "fold-constants:max-growth=1,max-growth=2", "fold-constants:max-growth=-1"}) {
    const auto step = parse_step(text);
    ASSERT_FALSE(step) << text;
    EXPECT_EQ(step.error().code, Code::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace onnxfold::recipe_test
