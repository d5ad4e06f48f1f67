#include "converter/merge_sources.h"

#include <fmt/format.h>

#include <algorithm>

#include "converter/finite.h"
#include "converter/match_parents.h"
#include "converter/model_files.h"
#include "passes/merge/kinship.h"

namespace onnxfold {
namespace {

// Weights say whether the models have a common base, and whether the base
// that was named is theirs.
Status describe_kinship(const MergeSources& sources, const MergeChoice& choice, std::vector<std::string>& notes) {
  int tuned = 0, strangers = 0;
  double cosine = 1;
  const bool based = sources.base != nullptr;
  for (std::size_t i = 0; i + (based ? 0 : 1) < sources.parents.size(); ++i) {
    OF_ASSIGN(const Kinship kin, kinship(*sources.parents[i], based ? *sources.base : *sources.parents.back()));
    tuned += kin.tuned_from_one_base() ? 1 : 0;
    strangers += kin.compared > 0 && kin.cosine < 0.2 ? 1 : 0;
    if (kin.compared > 0) cosine = std::min(cosine, kin.cosine);
  }
  if (based && strangers > 0) {
    notes.push_back(
        fmt::format("the weights of {} of the models have nothing in common "
                    "with those of the base (median cosine "
                    "{:.2f}): is it what they were tuned from?",
                    strangers, cosine));
  }
  if (!based && tuned + 1 == static_cast<int>(sources.parents.size())) {
    notes.push_back(
        fmt::format("the models look like fine-tunes of one base (median "
                    "cosine of their weights {:.3f}): with "
                    "--base BASE.onnx, methods on differences to it (ties, "
                    "task-arithmetic) are likely better",
                    cosine));
  }
  if (!based && strangers > 0 && choice.method->combine != nullptr) {
    notes.push_back(
        fmt::format("the weights of the models have nothing in common "
                    "(median cosine {:.2f}): they have to be "
                    "brought into one basis first (--method align)",
                    cosine));
  }
  return {};
}

Status load_parents(const MergeOptions& options, const MergeChoice& choice, MergeSources& sources, MergeFacts& facts) {
  for (const std::string& path : options.sources) {
    if (options.progress) options.progress("reading " + path, -1);
    OF_ASSIGN(LoadedModel loaded, load_with_facts(path, options.dry_run ? Hashing::kNo : Hashing::kYes));
    facts.parents.push_back(loaded.facts);
    sources.parents.push_back(std::move(loaded.model));
    // Weight by weight they are looked at when they are merged.
    if (choice.method->whole == nullptr) continue;
    if (const Status finite = check_finite_weights(sources.parents.back()->graph()); !finite) {
      return fail(finite.error().in(path));
    }
  }
  if (!options.base.empty()) {
    OF_ASSIGN(LoadedModel loaded, load_with_facts(options.base, Hashing::kNo));
    sources.base = std::move(loaded.model);
  }
  sources.described = described_values(*sources.parents.back());
  std::vector<NamedModel> models;
  if (sources.base != nullptr) models.push_back({&sources.base, options.base});
  for (std::size_t i = 0; i < sources.parents.size(); ++i) models.push_back({&sources.parents[i], options.sources[i]});
  OF_TRY(match_parents(models, {options.data.empty() ? options.calibration : options.data, options.seed}, facts.notes));
  return describe_kinship(sources, choice, facts.notes);
}

Status load_data(const MergeOptions& options, const MergeChoice& choice, MergeSources& sources,
                 std::vector<std::string>& notes) {
  if (!options.data.empty() || options.check) {
    OF_ASSIGN(sources.data, make_dataset(*sources.parents.back(), options.data, options.seed, options.max_samples));
  }
  const std::string& calibration = options.calibration.empty() ? options.data : options.calibration;
  if (calibration.empty() || (choice.method->whole == nullptr && !choice.automatic)) return {};
  const bool same = options.calibration.empty() && options.calibration_samples == 0;
  const std::int64_t samples = same ? options.max_samples : options.calibration_samples;
  auto loaded = make_dataset(*sources.parents.back(), calibration, options.seed, samples);
  if (!loaded) return fail(loaded.error().in("--calibration"));
  if (const Status finite = check_finite_inputs(*loaded); !finite) return fail(finite.error().in(calibration));
  sources.calibration = std::move(*loaded);
  if (options.calibration.empty() && choice.automatic) {
    if (!sources.calibration->targets.empty())
      notes.emplace_back(
          "the method was chosen by the labels of --data, which flatters "
          "its scores; give labelled --calibration to "
          "keep them apart");
  } else if (options.calibration.empty()) {
    notes.emplace_back(
        "calibrated on the inputs of --data (no labels used); give "
        "--calibration to keep them apart");
  }
  return {};
}

}  // namespace

std::vector<const Model*> MergeSources::views() const {
  std::vector<const Model*> models;
  for (const auto& parent : parents) models.push_back(parent.get());
  return models;
}

Result<MergeSources> load_merge_sources(const MergeOptions& options, const MergeChoice& choice, MergeFacts& facts) {
  MergeSources sources;
  OF_TRY(load_parents(options, choice, sources, facts));
  OF_TRY(load_data(options, choice, sources, facts.notes));
  return sources;
}

}  // namespace onnxfold
