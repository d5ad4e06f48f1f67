#include "converter/merge_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "converter/model_files.h"

namespace onnxfold {
namespace {

std::string method_names() {
  std::string names;
  for (const MergeMethod& method : merge_methods()) names += (names.empty() ? "" : ", ") + std::string(method.name);
  return names;
}

Status check_numbers(const std::vector<double>& weights, const std::string& place) {
  const bool fine = std::all_of(weights.begin(), weights.end(), [](double x) { return std::isfinite(x); });
  return fine ? Status() : fail(Code::kInvalidArgument, place + ": a weight is no finite number");
}

Status check_weights(const MergeChoice& choice, const std::vector<double>& weights, const std::string& place) {
  const bool equal = std::all_of(weights.begin(), weights.end(), [&](double x) { return x == weights.front(); });
  if (!choice.method->weighted && !equal) {
    return fail(Code::kInvalidArgument,
                fmt::format("{}: method '{}' does not weigh models; {}", place, choice.method->name,
                            choice.method->name == "slerp" ? "slerp:t=0.7 goes 0.7 of the way to the second"
                                                           : "it looks at how far they agree"));
  }
  const bool normalizes =
      choice.method_options->all().count("normalize") != 0 && choice.method_options->flag("normalize");
  const bool divides = choice.method->whole != nullptr || choice.method->combine == average || normalizes;
  if (!divides || sum_of(weights) != 0) return {};
  return fail(Code::kInvalidArgument, fmt::format("{}: the weights sum to zero, and method '{}' divides by their sum",
                                                  place, choice.method->name));
}

Status parse_options(MergeChoice& choice) {
  auto parsed = PassOptions::parse(choice.method->name, choice.method->options, choice.given);
  if (!parsed) return fail(parsed.error());
  choice.method_options = std::move(*parsed);
  return {};
}

Status choose_method(const MergeOptions& options, MergeChoice& choice) {
  const bool data = !options.data.empty() || !options.calibration.empty();
  const bool based = options.method.empty() && !options.base.empty() && options.options.empty();
  choice.automatic = based && options.patterns.empty();
  const std::string fallback = based ? first_trial().method : data ? "align" : "average";
  const std::string name = options.method.empty() ? fallback : options.method;
  choice.given = based ? first_trial().options : options.options;
  choice.method = find_merge_method(name);
  if (choice.method == nullptr) {
    return fail(Code::kInvalidArgument, fmt::format("there is no method '{}'; methods: {}", name, method_names()));
  }
  if (choice.method->needs_base && options.base.empty()) {
    return fail(Code::kInvalidArgument,
                fmt::format("method '{}' needs --base: the model that all were tuned from", name));
  }
  if (choice.method->whole != nullptr && !options.patterns.empty()) {
    return fail(Code::kInvalidArgument, fmt::format("method '{}' takes no weights by pattern", name));
  }
  choice.weights = options.weights;
  if (choice.weights.empty()) choice.weights.assign(options.sources.size(), 1.0);
  OF_TRY(parse_options(choice));
  OF_TRY(check_weights(choice, choice.weights, "--weights"));
  for (const MergePattern& pattern : options.patterns) {
    if (!pattern.weights.empty()) OF_TRY(check_weights(choice, pattern.weights, "pattern '" + pattern.pattern + "'"));
  }
  return {};
}

}  // namespace

Result<MergeChoice> choose_merge(const MergeOptions& options) {
  const std::size_t count = options.sources.size();
  if (count < 2) return fail(Code::kInvalidArgument, "merge needs at least two models");
  if (!options.weights.empty() && options.weights.size() != count) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} weights for {} models: give one a model", options.weights.size(), count));
  }
  OF_TRY(check_numbers(options.weights, "--weights"));
  for (const MergePattern& pattern : options.patterns) {
    OF_TRY(check_numbers(pattern.weights, "pattern '" + pattern.pattern + "'"));
    if (pattern.weights.empty() || pattern.weights.size() == count) continue;
    return fail(Code::kInvalidArgument,
                fmt::format("pattern '{}': {} weights for {} models", pattern.pattern, pattern.weights.size(), count));
  }
  MergeChoice choice;
  OF_TRY(choose_method(options, choice));
  if (choice.method->combine == slerp && count != 2) {
    return fail(Code::kInvalidArgument, fmt::format("slerp merges exactly two models, not {}", count));
  }
  for (const std::string& path : {options.data, options.calibration}) {
    std::error_code error;
    if (path.empty() || std::filesystem::exists(path, error)) continue;
    return fail(Code::kIo, fmt::format("cannot read data '{}': no such file or folder", path));
  }
  OF_TRY(check_target(options.target, options.save.overwrite || options.dry_run));
  return choice;
}

Status take_trial(const MergeTrial& trial, MergeChoice& choice) {
  choice.method = find_merge_method(trial.method);
  choice.given = trial.options;
  return parse_options(choice);
}

MergeSettings merge_settings(const PassOptions& options) {
  MergeSettings settings;
  const auto has = [&](const char* name) { return options.all().count(name) != 0; };
  if (has("lambda")) settings.lambda = options.number("lambda");
  if (has("density")) settings.density = options.number("density");
  if (has("t")) settings.t = options.number("t");
  if (has("normalize")) settings.normalize = options.flag("normalize");
  return settings;
}

double sum_of(const std::vector<double>& weights) { return std::accumulate(weights.begin(), weights.end(), 0.0); }

}  // namespace onnxfold
