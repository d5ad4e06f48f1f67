// Recipes: named or YAML lists of passes with options.
//
//   name: mine
//   description: one line
//   steps:
//     - recipe: clean               # the steps of another recipe
//     - rtn: {bits: 4, block: 32}   # a pass with options; lists become ';'-separated patterns
//     - remove-dead-nodes           # a pass with its defaults
//     - until-stable: [fold-constants, remove-identity]
#pragma once

#include <map>
#include <string>
#include <vector>

#include "passes/pass.h"

namespace onnxfold {

struct RecipeStep {
  std::string pass;
  std::map<std::string, std::string> options;
  std::vector<RecipeStep> until_stable;  // non-empty: a group run to a fixed point (pass is empty)
};

struct Recipe {
  std::string name, description;
  std::vector<RecipeStep> steps;
};

// Built-in name (int4, int8, clean, ...) or path of a YAML file. Passes and options are checked against the registry.
// Errors: invalid_argument with file and line for YAML, the nearest name for a misspelt recipe, pass or option; io.
Result<Recipe> load_recipe(const std::string& name_or_path);
std::vector<std::string> builtin_recipes();
// The text load_recipe would read back: other recipes expanded.
std::string to_yaml(const Recipe& recipe);
// One line, for metadata: "remove-identity rtn:bits=4,block=32".
std::string to_line(const Recipe& recipe);
// "name:option=value,option=value" of --pass, checked against the registry.
Result<RecipeStep> parse_step(const std::string& text);
// Number of passes, those inside groups included.
int pass_count(const std::vector<RecipeStep>& steps);

}  // namespace onnxfold
