// The YAML files of converter/recipes/, embedded at build time (builtin_recipes.cc.in).
#pragma once

#include <span>
#include <string_view>

namespace onnxfold {

struct BuiltinRecipe {
  std::string_view name, yaml;
};

std::span<const BuiltinRecipe> embedded_recipes();

}  // namespace onnxfold
