// Recipes: named or YAML lists of passes with options.
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

// Built-in name (int4, int8, clean, ...) or path of a YAML file.
// Errors: invalid_argument with the line for YAML, the nearest name for a misspelt one.
Result<Recipe> load_recipe(const std::string& name_or_path);
std::vector<std::string> builtin_recipes();
std::string to_yaml(const Recipe& recipe);
// "name:option=value,option=value" of --pass.
Result<RecipeStep> parse_step(const std::string& text);

}  // namespace onnxfold
