#include "converter/make_merged.h"

#include <algorithm>

#include "analysis/structure/attention.h"
#include "analysis/structure/correspondence.h"
#include "converter/pipeline.h"
#include "formats/onnx/schema.h"
#include "passes/merge/weights.h"

namespace onnxfold {
namespace {

// Weights inside of a fused operator: its heads are no columns of a Linear.
bool holds_hidden_heads(Model& model) {
  if (!infer_shapes(model)) return false;
  const std::vector<Attention> attentions = find_attentions(model.graph());
  return std::any_of(attentions.begin(), attentions.end(), [](const Attention& attention) {
    return attention.packed_weight != nullptr || attention.packed_bias != nullptr;
  });
}

// Constants as initializers, shared by name only where the weights are tied; gains of norms in the Linears after them.
Status prepare(Model& model, bool hidden, bool folds_norms) {
  Recipe recipe;
  for (const char* pass : {"lift-constants", "remove-identity"}) recipe.steps.push_back({pass, {}, {}});
  if (hidden) recipe.steps.push_back({"expand-attention", {{"only-contrib", "true"}}, {}});
  if (folds_norms) recipe.steps.push_back({"fold-norm-affine", {}, {}});
  const auto ran = run_pipeline(model, recipe);
  return ran ? Status() : fail(ran.error());
}

Result<bool> parents_are_equal(const MergeSources& sources) {
  const auto& parents = sources.parents;
  for (std::size_t i = 0; i + 1 < parents.size(); ++i) {
    OF_ASSIGN(const bool equal, same_constants(parents[i]->graph(), parents.back()->graph()));
    if (!equal) return false;
  }
  return true;
}

Result<std::unique_ptr<Model>> merged_plainly(const MergeOptions& options, const MergeSources& sources,
                                              const MergeChoice& choice) {
  const MergeMethod& method = *choice.method;
  PlainMerge plain{method.combine, choice.weights, merge_settings(*choice.method_options), {},
                   options.seed,   options.sources};
  plain.names.push_back(options.base);
  for (const MergePattern& pattern : options.patterns) {
    MergeRule rule{pattern.pattern, pattern.weights, plain.settings, !pattern.options.empty()};
    std::map<std::string, std::string> given = choice.given;
    for (const auto& [key, value] : pattern.options) given[key] = value;
    OF_ASSIGN(const PassOptions parsed, PassOptions::parse(method.name, method.options, given));
    rule.settings = merge_settings(parsed);
    plain.rules.push_back(std::move(rule));
  }
  return merge_weights(sources.views(), method.needs_base ? sources.base.get() : nullptr, plain);
}

Result<WholeMerge> merged_whole(const MergeOptions& options, const MergeSources& sources, const MergeChoice& choice,
                                const Dataset* calibration) {
  WholeMergeInput input;
  const bool hidden = holds_hidden_heads(*sources.parents.back());
  for (const auto& parent : sources.parents) {
    input.parents.push_back(parent->clone());
    OF_TRY(prepare(*input.parents.back(), hidden, choice.method->folds_norms));
  }
  input.weights = choice.weights;
  input.calibration = calibration;
  input.seed = options.seed;
  auto made = choice.method->whole(std::move(input), *choice.method_options);
  if (!made) return fail(made.error().in(choice.method->name));
  if (hidden) {
    made->notes.emplace_back(
        "attention that holds weights of its own was written with standard "
        "operators, to move its heads");
  }
  return std::move(*made);
}

Status choose_by_trial(const MergeOptions& options, const MergeSources& sources, MergeChoice& choice,
                       MergeFacts& facts) {
  const auto make = [&](const MergeTrial& trial, const Dataset* fitted) -> Result<std::unique_ptr<Model>> {
    OF_TRY(take_trial(trial, choice));
    if (choice.method->combine != nullptr) return merged_plainly(options, sources, choice);
    OF_ASSIGN(WholeMerge whole, merged_whole(options, sources, choice, fitted));
    return std::move(whole.merged);
  };
  const Dataset* data = sources.calibration ? &*sources.calibration : nullptr;
  OF_ASSIGN(TrialChoice best, choose_trial(sources.views(), data, make));
  facts.notes.push_back(std::move(best.note));
  return take_trial(best.trial, choice);
}

}  // namespace

Result<Merged> make_merged(const MergeOptions& options, const MergeSources& sources, MergeChoice& choice,
                           MergeFacts& facts) {
  const auto progress = [&](const std::string& phase) {
    if (options.progress) options.progress(phase, -1);
  };
  if (choice.automatic) {
    progress("choosing a method");
    OF_TRY(choose_by_trial(options, sources, choice, facts));
  }
  progress(std::string(choice.method->name));
  Merged merged;
  if (choice.method->combine != nullptr) {
    OF_ASSIGN(merged.model, merged_plainly(options, sources, choice));
    return merged;
  }
  OF_ASSIGN(const bool equal, parents_are_equal(sources));
  if (equal) {
    facts.notes.emplace_back("all models have the weights of the anchor: it is the result");
    merged.model = sources.parents.back()->clone();
    return merged;
  }
  const Dataset* calibration = sources.calibration ? &*sources.calibration : nullptr;
  OF_ASSIGN(WholeMerge whole, merged_whole(options, sources, choice, calibration));
  merged.model = std::move(whole.merged);
  merged.aligned = std::move(whole.aligned);
  for (std::string& text : whole.notes) facts.notes.push_back(std::move(text));
  for (const MergeLayer& layer : whole.layers) {
    facts.layers.push_back({layer.name, layer.kind, layer.before, layer.after, layer.cost, layer.sharpness});
  }
  return merged;
}

}  // namespace onnxfold
