#include "converter/mixed_formats.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "converter/compress.h"
#include "converter/model_files.h"
#include "passes/registry.h"

namespace onnxfold {
namespace {

bool has_option(const PassInfo& info, std::string_view name) {
  return std::any_of(info.options.begin(), info.options.end(), [&](const OptionSpec& o) { return o.name == name; });
}

bool mixes(const RecipeStep& step) {
  const PassInfo* info = find_pass(step.pass);
  return info != nullptr && has_option(*info, "formats");
}

std::string text_of(const BlockFormat& format) {
  return fmt::format("{} bits, {}{}", format.bits,
                     format.block == 0 ? "one scale a row" : fmt::format("blocks of {}", format.block),
                     format.symmetric ? "" : ", zero points");
}

BlockRule rule_of(const std::string& pass) {
  if (pass == "rtn") return choose_rtn;
  return pass == "hqq" ? choose_hqq : choose_rtn_search;
}

// 3 bits are stored in 4, so under a budget there is no use for them.
std::vector<BlockFormat> candidate_formats(const BlockFormat& base, bool both_symmetries) {
  std::vector<BlockFormat> formats;
  for (const int bits : {2, 4, 8}) {
    for (const std::int64_t block : {16, 32, 64, 128}) {
      for (const bool symmetric : {true, false}) {
        if (!both_symmetries && symmetric != base.symmetric) continue;
        if (bits == 8 && (symmetric != base.symmetric || block == 16)) continue;
        BlockFormat format = base;
        format.bits = bits;
        format.block = block;
        format.symmetric = symmetric;
        formats.push_back(format);
      }
    }
  }
  return formats;
}

bool same(const BlockFormat& a, const BlockFormat& b) {
  return a.bits == b.bits && a.block == b.block && a.symmetric == b.symmetric;
}

}  // namespace

Status MixedFormats::split_recipe() {
  Recipe recipe = options_.recipe;
  if (recipe.steps.empty()) {
    OF_ASSIGN(recipe, load_recipe("clean"));
  }
  std::vector<RecipeStep>& steps = recipe.steps;
  auto found = std::find_if(steps.begin(), steps.end(), mixes);
  if (found == steps.end()) {
    RecipeStep step;
    step.pass = options_.learns ? "gptq" : "rtn-search";
    step.options["scales"] = "float16";
    found = steps.insert(steps.end(), std::move(step));
  }
  quantizer_ = *found;
  if (!quantizer_.options["formats"].empty()) {
    return fail(Code::kInvalidArgument, "a budget chooses the formats itself: leave out formats=");
  }
  front_.steps.assign(steps.begin(), found);
  back_.steps.assign(found + 1, steps.end());
  front_.name = recipe.name;
  return {};
}

Result<WeightOptions> MixedFormats::weights() const {
  const PassInfo* info = find_pass(quantizer_.pass);
  OF_ASSIGN(const PassOptions options, PassOptions::parse(info->name, info->options, quantizer_.options));
  return weight_options(options);
}

Result<MixedFormats> MixedFormats::create(const MixedFormatsOptions& options) {
  MixedFormats made;
  made.options_ = options;
  OF_TRY(made.split_recipe());
  made.prepared_ = options.before->clone();
  OF_TRY(run_pipeline(*made.prepared_, made.front_, options.pipeline));
  SensitivityOptions measuring;
  OF_ASSIGN(measuring.weights, made.weights());
  OF_TRY(measuring.weights.check());
  if (measuring.weights.format.float_zeros) {
    return fail(Code::kInvalidArgument, "zero-points=float cannot be mixed with other formats: leave it out");
  }
  const bool both = has_option(*find_pass(made.quantizer_.pass), "symmetric");
  measuring.formats = made.formats_ = candidate_formats(measuring.weights.format, both);
  measuring.rule = rule_of(made.quantizer_.pass);
  const auto norms = made.quantizer_.options.find("norms");
  measuring.norms = norms == made.quantizer_.options.end() || norms->second != "false";
  if (options.progress) {
    measuring.progress = [&](double done) { options.progress("measuring sensitivities", done); };
  }
  OF_ASSIGN(made.sensitivity_, measure_sensitivity(*made.prepared_, options.data, measuring));
  if (made.sensitivity_.weights.empty()) {
    return fail(Code::kInvalidArgument, "there is no weight that could be stored in fewer bits");
  }
  for (const WeightSensitivity& row : made.sensitivity_.weights) made.elements_ += row.elements;
  return made;
}

double MixedFormats::bits(std::int64_t weight_bytes) const {
  return 8 * static_cast<double>(weight_bytes) / static_cast<double>(elements_);
}

// `formats` by weight; null: it stays in floating point. The most frequent format becomes that of the pass.
FormatPlan MixedFormats::plan_of(const std::vector<const FormatDamage*>& formats, const std::string& name) const {
  FormatPlan plan;
  std::map<std::tuple<int, std::int64_t, bool>, std::pair<int, BlockFormat>> counts;
  for (const FormatDamage* each : formats) {
    if (each == nullptr) continue;
    auto& [count, format] = counts[{each->format.bits, each->format.block, each->format.symmetric}];
    ++count;
    format = each->format;
  }
  BlockFormat base = formats_.front();
  int most = 0;
  std::string summary;
  for (const auto& [key, entry] : counts) {
    if (entry.first > most) {
      most = entry.first;
      base = entry.second;
    }
    summary += fmt::format("{}{} x {}", summary.empty() ? "" : "; ", entry.first, text_of(entry.second));
  }
  std::string rules;
  for (std::size_t i = 0; i < formats.size(); ++i) {
    const WeightSensitivity& row = sensitivity_.weights[i];
    plan.weight_bytes += formats[i] == nullptr ? row.bytes : formats[i]->bytes;
    plan.damage += formats[i] == nullptr ? 0 : formats[i]->damage;
    if (formats[i] != nullptr && same(formats[i]->format, base)) continue;
    rules += (rules.empty() ? "" : ";") +
             (formats[i] == nullptr ? keep_rule_text(row.weight) : format_rule_text(row.weight, formats[i]->format));
  }
  const auto kept = std::count(formats.begin(), formats.end(), nullptr);
  if (kept > 0) summary += fmt::format("{}{} x float", summary.empty() ? "" : "; ", kept);
  plan.name = counts.size() + (kept > 0 ? 1 : 0) > 1 ? fmt::format("{}: {}", name, summary) : text_of(base);
  plan.step = quantizer_;
  plan.step.options["bits"] = std::to_string(base.bits);
  plan.step.options["block"] = base.block == 0 ? "channel" : std::to_string(base.block);
  if (has_option(*find_pass(quantizer_.pass), "symmetric")) {
    plan.step.options["symmetric"] = base.symmetric ? "true" : "false";
  }
  if (rules.empty()) {
    plan.step.options.erase("formats");
  } else {
    plan.step.options["formats"] = rules;
  }
  return plan;
}

std::vector<FormatPlan> MixedFormats::uniform() const {
  std::vector<FormatPlan> plans;
  for (const BlockFormat& format : formats_) {
    std::vector<const FormatDamage*> chosen;
    for (const WeightSensitivity& row : sensitivity_.weights) {
      const auto found = std::find_if(row.formats.begin(), row.formats.end(),
                                      [&](const FormatDamage& each) { return same(each.format, format); });
      chosen.push_back(found == row.formats.end() ? nullptr : &*found);
    }
    plans.push_back(plan_of(chosen, text_of(format)));
  }
  std::stable_sort(plans.begin(), plans.end(),
                   [](const FormatPlan& a, const FormatPlan& b) { return a.damage < b.damage; });
  return plans;
}

// `least`: bytes that each weight keeps at least; empty: none.
Result<FormatPlan> MixedFormats::allocate(std::int64_t weight_bytes, const std::vector<std::int64_t>& least,
                                          const std::string& name) const {
  std::vector<std::vector<FormatChoice>> items;
  std::vector<std::vector<const FormatDamage*>> meaning;
  for (std::size_t i = 0; i < sensitivity_.weights.size(); ++i) {
    const WeightSensitivity& row = sensitivity_.weights[i];
    std::vector<FormatChoice> choices = {{row.bytes, 0}};
    std::vector<const FormatDamage*> formats = {nullptr};
    for (const FormatDamage& format : row.formats) {
      if (!least.empty() && format.bytes < least[i]) continue;
      choices.push_back({format.bytes, format.damage});
      formats.push_back(&format);
    }
    items.push_back(std::move(choices));
    meaning.push_back(std::move(formats));
  }
  OF_ASSIGN(const std::vector<std::size_t> chosen, allocate_formats(items, weight_bytes));
  std::vector<const FormatDamage*> formats;
  for (std::size_t i = 0; i < chosen.size(); ++i) formats.push_back(meaning[i][chosen[i]]);
  return plan_of(formats, name);
}

Result<FormatPlan> MixedFormats::mixed(std::int64_t weight_bytes) const { return allocate(weight_bytes, {}, "mixed"); }

Result<FormatPlan> MixedFormats::upgraded(const FormatPlan& floor, std::int64_t weight_bytes) const {
  std::vector<std::int64_t> least;
  for (const WeightSensitivity& row : sensitivity_.weights) {
    std::int64_t bytes = row.bytes;
    for (const FormatDamage& each : row.formats) {
      const bool here = std::to_string(each.format.bits) == floor.step.options.at("bits") &&
                        std::to_string(each.format.block) == floor.step.options.at("block") &&
                        (!floor.step.options.contains("symmetric") ||
                         (floor.step.options.at("symmetric") == "true") == each.format.symmetric);
      if (here) bytes = each.bytes;
    }
    least.push_back(bytes);
  }
  return allocate(weight_bytes, least, "uniform, some upgraded");
}

std::int64_t MixedFormats::least_weight_bytes() const {
  std::int64_t total = 0;
  for (const WeightSensitivity& row : sensitivity_.weights) {
    std::int64_t least = row.bytes;
    for (const FormatDamage& each : row.formats) least = std::min(least, each.bytes);
    total += least;
  }
  return total;
}

Recipe MixedFormats::recipe(const FormatPlan& plan) const {
  Recipe recipe = front_;
  recipe.name += (recipe.name.empty() ? "" : "+") + std::string("mixed");
  recipe.steps.push_back(plan.step);
  recipe.steps.insert(recipe.steps.end(), back_.steps.begin(), back_.steps.end());
  return recipe;
}

Result<std::unique_ptr<Model>> MixedFormats::run(RecipeStep step, const Dataset* calibration) const {
  std::unique_ptr<Model> model = prepared_->clone();
  Recipe rest = back_;
  rest.steps.insert(rest.steps.begin(), std::move(step));
  PipelineOptions pipeline = options_.pipeline;
  pipeline.calibration = calibration;
  OF_TRY(run_pipeline(*model, rest, pipeline));
  return model;
}

Result<std::unique_ptr<Model>> MixedFormats::build(const FormatPlan& plan, const Dataset* calibration) const {
  return run(plan.step, calibration);
}

Result<std::int64_t> MixedFormats::file_bytes(Model& model, const FormatPlan& plan) const {
  stamp(model, to_line(recipe(plan)), options_.source_hash);
  SaveOptions save = options_.save;
  save.described = described_values(*options_.before);
  OF_ASSIGN(const SaveStats stats, predict_save(model, "model.onnx", save));
  return stats.file_bytes + stats.external_bytes;
}

// Round to nearest makes the same shapes, and makes them when the file is written: never, here.
Result<std::int64_t> MixedFormats::file_bytes(const FormatPlan& plan) const {
  RecipeStep step;
  step.pass = "rtn";
  const PassInfo* info = find_pass(step.pass);
  for (const auto& [name, value] : plan.step.options) {
    if (has_option(*info, name)) step.options[name] = value;
  }
  if (!has_option(*find_pass(quantizer_.pass), "symmetric")) step.options["symmetric"] = "false";
  OF_ASSIGN(const std::unique_ptr<Model> model, run(std::move(step), nullptr));
  return file_bytes(*model, plan);
}

}  // namespace onnxfold
