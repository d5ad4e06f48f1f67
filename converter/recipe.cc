#include "converter/recipe.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "converter/builtin_recipes.h"
#include "passes/registry.h"

namespace onnxfold {
namespace {

constexpr int kMaxNesting = 8;

Status check_step(const RecipeStep& step) {
  const PassInfo* info = find_pass(step.pass);
  if (info == nullptr) {
    const std::string nearest = nearest_pass(step.pass);
    return fail(Code::kInvalidArgument,
                fmt::format("there is no pass '{}'; {}", step.pass,
                            nearest.empty() ? "`onnxfold passes` lists them" : "did you mean '" + nearest + "'?"));
  }
  const auto parsed = PassOptions::parse(step.pass, info->options, step.options);
  if (!parsed) return fail(parsed.error());
  return {};
}

// Turns YAML nodes into steps; every error names file and line.
class Reader {
 public:
  Reader(std::string file, int depth) : file_(std::move(file)), depth_(depth) {}

  Result<Recipe> recipe(const YAML::Node& root) {
    if (!root.IsMap()) return error(root, "expected the keys name, description and steps");
    Recipe result;
    for (const auto& entry : root) {
      const std::string key = entry.first.Scalar();
      if (key == "name" || key == "description") {
        if (!entry.second.IsScalar()) return error(entry.second, fmt::format("'{}' must be text", key));
        (key == "name" ? result.name : result.description) = entry.second.Scalar();
      } else if (key == "steps") {
        OF_ASSIGN(result.steps, steps(entry.second));
      } else {
        return error(entry.first, fmt::format("unknown key '{}'; a recipe has name, description and steps", key));
      }
    }
    if (result.steps.empty()) return error(root, "a recipe needs at least one step");
    return result;
  }

 private:
  tl::unexpected<Error> error(const YAML::Node& where, const std::string& message) const {
    return fail(Code::kInvalidArgument, fmt::format("{}:{}: {}", file_, where.Mark().line + 1, message));
  }

  Result<std::vector<RecipeStep>> steps(const YAML::Node& list) {
    if (!list.IsSequence()) return error(list, "steps must be a list: '- pass-name' or '- pass-name: {option: value}'");
    std::vector<RecipeStep> result;
    for (const YAML::Node& item : list) {
      OF_ASSIGN(std::vector<RecipeStep> parsed, step(item));
      std::move(parsed.begin(), parsed.end(), std::back_inserter(result));
    }
    return result;
  }

  Result<std::vector<RecipeStep>> step(const YAML::Node& item) {
    if (item.IsScalar()) return checked(item, {item.Scalar(), {}, {}});
    if (!item.IsMap() || item.size() != 1) return error(item, "a step is a pass name, or one pass name with options");
    const std::string key = item.begin()->first.Scalar();
    const YAML::Node value = item.begin()->second;
    if (key == "recipe") return included(value);
    if (key == "until-stable") {
      RecipeStep group;
      OF_ASSIGN(group.until_stable, steps(value));
      if (group.until_stable.empty()) return error(item, "until-stable needs at least one pass");
      return std::vector<RecipeStep>{std::move(group)};
    }
    RecipeStep result{key, {}, {}};
    if (value.IsNull()) return checked(item, std::move(result));
    if (!value.IsMap()) return error(value, fmt::format("options of '{}' must be written {{name: value}}", key));
    for (const auto& option : value) {
      OF_ASSIGN(result.options[option.first.Scalar()], option_text(option.second));
    }
    return checked(item, std::move(result));
  }

  Result<std::string> option_text(const YAML::Node& value) {
    if (value.IsScalar()) return value.Scalar();
    if (!value.IsSequence()) return error(value, "an option's value is text, a number or a list of patterns");
    std::string text;
    for (const YAML::Node& part : value) {
      if (!part.IsScalar()) return error(part, "a pattern must be text");
      text += (text.empty() ? "" : ";") + part.Scalar();
    }
    return text;
  }

  Result<std::vector<RecipeStep>> included(const YAML::Node& value);

  Result<std::vector<RecipeStep>> checked(const YAML::Node& where, RecipeStep step) {
    if (const Status status = check_step(step); !status) return error(where, status.error().message);
    std::vector<RecipeStep> result;
    result.push_back(std::move(step));
    return result;
  }

  std::string file_;
  int depth_;
};

// The one place yaml-cpp's exceptions end.
Result<Recipe> parse_yaml(const std::string& text, const std::string& file, int depth) {
  try {
    return Reader(file, depth).recipe(YAML::Load(text));
  } catch (const YAML::Exception& e) {
    return fail(Code::kInvalidArgument, fmt::format("{}:{}: {}", file, e.mark.line + 1, e.msg));
  }
}

Result<std::string> read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) return fail(Code::kIo, fmt::format("cannot read recipe '{}'", path));
  return text.str();
}

tl::unexpected<Error> no_such_recipe(const std::string& name) {
  const BuiltinRecipe* nearest = nullptr;
  std::size_t least = name.size() / 3 + 2;
  for (const BuiltinRecipe& each : embedded_recipes()) {
    const std::size_t distance = edit_distance(each.name, name);
    if (distance >= least) continue;
    least = distance;
    nearest = &each;
  }
  const std::string hint = nearest != nullptr ? fmt::format("did you mean '{}'?", nearest->name)
                                              : fmt::format("built in are {}", fmt::join(builtin_recipes(), ", "));
  return fail(Code::kInvalidArgument, fmt::format("there is no recipe or file '{}'; {}", name, hint));
}

Result<Recipe> load_nested(const std::string& name, int depth) {
  if (depth > kMaxNesting) return fail(Code::kInvalidArgument, "recipes include each other too deeply");
  for (const BuiltinRecipe& each : embedded_recipes()) {
    if (each.name == name) return parse_yaml(std::string(each.yaml), fmt::format("recipe {}", name), depth);
  }
  std::error_code ignored;
  if (!std::filesystem::exists(name, ignored)) return no_such_recipe(name);
  OF_ASSIGN(const std::string text, read_text(name));
  OF_ASSIGN(Recipe recipe, parse_yaml(text, name, depth));
  if (recipe.name.empty()) recipe.name = std::filesystem::path(name).stem().string();
  return recipe;
}

Result<std::vector<RecipeStep>> Reader::included(const YAML::Node& value) {
  if (!value.IsScalar()) return error(value, "'recipe' takes the name of a recipe or a file");
  Result<Recipe> nested = load_nested(value.Scalar(), depth_ + 1);
  if (!nested) return error(value, nested.error().message);
  return std::move(nested->steps);
}

void write_steps(YAML::Emitter& out, const std::vector<RecipeStep>& steps) {
  out << YAML::BeginSeq;
  for (const RecipeStep& step : steps) {
    if (!step.until_stable.empty()) {
      out << YAML::BeginMap << YAML::Key << "until-stable" << YAML::Value;
      write_steps(out, step.until_stable);
      out << YAML::EndMap;
    } else if (step.options.empty()) {
      out << step.pass;
    } else {
      out << YAML::BeginMap << YAML::Key << step.pass << YAML::Value << YAML::Flow << YAML::BeginMap;
      for (const auto& [name, value] : step.options) out << YAML::Key << name << YAML::Value << value;
      out << YAML::EndMap << YAML::Block << YAML::EndMap;
    }
  }
  out << YAML::EndSeq;
}

std::string line_of(const std::vector<RecipeStep>& steps) {
  std::string line;
  for (const RecipeStep& step : steps) {
    if (!line.empty()) line += ' ';
    if (!step.until_stable.empty()) {
      line += "until-stable(" + line_of(step.until_stable) + ")";
      continue;
    }
    line += step.pass;
    char separator = ':';
    for (const auto& [name, value] : step.options) {
      line += fmt::format("{}{}={}", separator, name, value);
      separator = ',';
    }
  }
  return line;
}

}  // namespace

Result<Recipe> load_recipe(const std::string& name_or_path) { return load_nested(name_or_path, 0); }

std::vector<std::string> builtin_recipes() {
  std::vector<std::string> names;
  for (const BuiltinRecipe& each : embedded_recipes()) names.emplace_back(each.name);
  return names;
}

std::string to_yaml(const Recipe& recipe) {
  YAML::Emitter out;
  out << YAML::BeginMap << YAML::Key << "name" << YAML::Value << recipe.name;
  if (!recipe.description.empty()) out << YAML::Key << "description" << YAML::Value << recipe.description;
  out << YAML::Key << "steps" << YAML::Value;
  write_steps(out, recipe.steps);
  out << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

std::string to_line(const Recipe& recipe) { return line_of(recipe.steps); }

Result<RecipeStep> parse_step(const std::string& text) {
  RecipeStep step;
  const std::size_t colon = text.find(':');
  step.pass = text.substr(0, colon);
  std::string rest = colon == std::string::npos ? "" : text.substr(colon + 1);
  while (!rest.empty()) {
    const std::size_t comma = rest.find(',');
    const std::string option = rest.substr(0, comma);
    rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
    const std::size_t equals = option.find('=');
    if (equals == std::string::npos || equals == 0) {
      return fail(Code::kInvalidArgument,
                  fmt::format("--pass '{}': '{}' is not of the form option=value", text, option));
    }
    if (!step.options.emplace(option.substr(0, equals), option.substr(equals + 1)).second) {
      return fail(Code::kInvalidArgument,
                  fmt::format("--pass '{}': option '{}' is given twice", text, option.substr(0, equals)));
    }
  }
  OF_TRY(check_step(step));
  return step;
}

int pass_count(const std::vector<RecipeStep>& steps) {
  int count = 0;
  for (const RecipeStep& step : steps) count += step.until_stable.empty() ? 1 : pass_count(step.until_stable);
  return count;
}

}  // namespace onnxfold
