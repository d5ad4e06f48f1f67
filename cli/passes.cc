#include <fmt/format.h>

#include <iostream>

#include "cli/verbs.h"
#include "passes/registry.h"

namespace onnxfold::cli {
namespace {

std::string_view exactness_text(Exactness exactness) {
  switch (exactness) {
    case Exactness::kExact:
      return "exact";
    case Exactness::kRounding:
      return "rounding";
    case Exactness::kLossy:
      return "lossy";
  }
  return "";
}

std::string table() {
  std::string text;
  for (const PassInfo& info : all_passes()) {
    text +=
        fmt::format("{:<32} {:<9} {:<9} {}\n", info.name, info.family, exactness_text(info.exactness), info.summary);
  }
  return text;
}

std::string markdown() {
  std::string text = "| pass | family | exactness | what it does |\n| --- | --- | --- | --- |\n";
  for (const PassInfo& info : all_passes()) {
    text +=
        fmt::format("| `{}` | {} | {} | {} |\n", info.name, info.family, exactness_text(info.exactness), info.summary);
  }
  return text;
}

std::string allowed(const OptionSpec& option) {
  switch (option.type) {
    case OptionType::kBool:
      return "true|false";
    case OptionType::kInt:
      return option.choices.empty() ? "integer" : fmt::format("integer {}", option.choices);
    case OptionType::kFloat:
      return option.choices.empty() ? "number" : fmt::format("number {}", option.choices);
    case OptionType::kString:
      return "text";
    case OptionType::kChoice:
      return std::string(option.choices);
    case OptionType::kPatterns:
      return "patterns, separated by ;";
  }
  return "";
}

Result<std::string> details(const std::string& name) {
  const PassInfo* info = find_pass(name);
  if (info == nullptr) {
    const std::string nearest = nearest_pass(name);
    return fail(Code::kInvalidArgument, fmt::format("there is no pass '{}'{}", name,
                                                    nearest.empty() ? "" : "; did you mean '" + nearest + "'?"));
  }
  std::string text =
      fmt::format("{} ({}, {})\n  {}\n", info->name, info->family, exactness_text(info->exactness), info->summary);
  if (info->options.empty()) return text + "  no options\n";
  for (const OptionSpec& option : info->options) {
    const std::string fallback(option.fallback.empty() ? "none" : option.fallback);
    text += fmt::format("  {:<16} {} ({}; default {})\n", option.name, option.help, allowed(option), fallback);
  }
  return text;
}

}  // namespace

Result<int> run_passes(const Words& words) {
  Arguments arguments("passes [NAME | --recipe NAME]", "Lists the passes, one pass with its options, or a recipe.",
                      "passes --recipe int4");
  arguments.positional(0, 1, "");
  arguments.value("recipe", "NAME|FILE.yaml", "print a recipe as YAML");
  arguments.flag("markdown", "print the table of the README");
  add_common(arguments);
  OF_ASSIGN(const bool go_on, arguments.parse(words));
  if (!go_on) return kDone;
  OF_TRY(common_of(arguments));
  if (arguments.has("recipe")) {
    OF_ASSIGN(const Recipe recipe, load_recipe(arguments.text("recipe")));
    std::cout << to_yaml(recipe);
  } else if (!arguments.words().empty()) {
    OF_ASSIGN(const std::string text, details(arguments.words()[0]));
    std::cout << text;
  } else {
    std::cout << (arguments.has("markdown") ? markdown() : table());
  }
  return kDone;
}

}  // namespace onnxfold::cli
