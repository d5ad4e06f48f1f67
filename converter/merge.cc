#include "converter/merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "analysis/compare/ensemble.h"
#include "analysis/structure/attention.h"
#include "analysis/structure/correspondence.h"
#include "converter/compress.h"
#include "converter/finite.h"
#include "converter/match_parents.h"
#include "converter/merge_trials.h"
#include "converter/model_files.h"
#include "formats/onnx/schema.h"
#include "passes/merge/controls.h"
#include "passes/merge/kinship.h"
#include "passes/merge/method.h"
#include "passes/merge/weights.h"
#include "passes/registry.h"

namespace onnxfold {
namespace {

using Clock = std::chrono::steady_clock;

std::string method_names() {
  std::string names;
  for (const MergeMethod& method : merge_methods()) names += (names.empty() ? "" : ", ") + std::string(method.name);
  return names;
}

MergeSettings settings_of(const PassOptions& options) {
  MergeSettings settings;
  const auto has = [&](const char* name) { return options.all().count(name) != 0; };
  if (has("lambda")) settings.lambda = options.number("lambda");
  if (has("density")) settings.density = options.number("density");
  if (has("t")) settings.t = options.number("t");
  if (has("normalize")) settings.normalize = options.flag("normalize");
  return settings;
}

class Job {
 public:
  explicit Job(const MergeOptions& options) : options_(options) {}

  Result<Report> run() {
    OF_TRY(check_options());
    OF_TRY(load_parents());
    OF_TRY(load_data());
    OF_TRY(merge());
    OF_TRY(describe());
    if (options_.check) {
      OF_TRY(score());
    } else {
      report_.not_checked = "--no-check was given";
    }
    OF_TRY(save_result());
    report_.seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    report_.peak_memory_bytes = peak_memory_bytes();
    return std::move(report_);
  }

 private:
  void progress(const std::string& phase, double done = -1) const {
    if (options_.progress) options_.progress(phase, done);
  }

  Status check_options() {
    const std::size_t count = options_.sources.size();
    if (count < 2) return fail(Code::kInvalidArgument, "merge needs at least two models");
    if (!options_.weights.empty() && options_.weights.size() != count) {
      return fail(Code::kInvalidArgument,
                  fmt::format("{} weights for {} models: give one a model", options_.weights.size(), count));
    }
    OF_TRY(check_numbers(options_.weights, "--weights"));
    for (const MergePattern& pattern : options_.patterns) {
      OF_TRY(check_numbers(pattern.weights, "pattern '" + pattern.pattern + "'"));
      if (pattern.weights.empty() || pattern.weights.size() == count) continue;
      return fail(Code::kInvalidArgument, fmt::format("pattern '{}': {} weights for {} models", pattern.pattern,
                                                      pattern.weights.size(), count));
    }
    OF_TRY(choose_method());
    if (method_->combine == slerp && count != 2) {
      return fail(Code::kInvalidArgument, fmt::format("slerp merges exactly two models, not {}", count));
    }
    for (const std::string& path : {options_.data, options_.calibration}) {
      std::error_code error;
      if (path.empty() || std::filesystem::exists(path, error)) continue;
      return fail(Code::kIo, fmt::format("cannot read data '{}': no such file or folder", path));
    }
    return check_target(options_.target, options_.save.overwrite || options_.dry_run);
  }

  static Status check_numbers(const std::vector<double>& weights, const std::string& place) {
    const bool fine = std::all_of(weights.begin(), weights.end(), [](double x) { return std::isfinite(x); });
    return fine ? Status() : fail(Code::kInvalidArgument, place + ": a weight is no finite number");
  }

  Status choose_method() {
    const bool data = !options_.data.empty() || !options_.calibration.empty();
    const bool based = options_.method.empty() && !options_.base.empty() && options_.options.empty();
    automatic_ = based && options_.patterns.empty();
    const std::string fallback = based ? first_trial().method : data ? "align" : "average";
    const std::string name = options_.method.empty() ? fallback : options_.method;
    given_ = based ? first_trial().options : options_.options;
    method_ = find_merge_method(name);
    if (method_ == nullptr) {
      return fail(Code::kInvalidArgument, fmt::format("there is no method '{}'; methods: {}", name, method_names()));
    }
    if (method_->needs_base && options_.base.empty()) {
      return fail(Code::kInvalidArgument,
                  fmt::format("method '{}' needs --base: the model that all were tuned from", name));
    }
    if (method_->whole != nullptr && !options_.patterns.empty()) {
      return fail(Code::kInvalidArgument, fmt::format("method '{}' takes no weights by pattern", name));
    }
    weights_ = options_.weights;
    if (weights_.empty()) weights_.assign(options_.sources.size(), 1.0);
    OF_TRY(parse_options());
    OF_TRY(check_weights(weights_, "--weights"));
    for (const MergePattern& pattern : options_.patterns) {
      if (!pattern.weights.empty()) OF_TRY(check_weights(pattern.weights, "pattern '" + pattern.pattern + "'"));
    }
    return {};
  }

  Status parse_options() {
    auto parsed = PassOptions::parse(method_->name, method_->options, given_);
    if (!parsed) return fail(parsed.error());
    method_options_ = std::make_unique<PassOptions>(std::move(*parsed));
    return {};
  }

  Status check_weights(const std::vector<double>& weights, const std::string& place) const {
    const bool equal = std::all_of(weights.begin(), weights.end(), [&](double x) { return x == weights.front(); });
    if (!method_->weighted && !equal) {
      return fail(Code::kInvalidArgument,
                  fmt::format("{}: method '{}' does not weigh models; {}", place, method_->name,
                              method_->name == "slerp" ? "slerp:t=0.7 goes 0.7 of the way to the second"
                                                       : "it looks at how far they agree"));
    }
    const bool normalizes = method_options_->all().count("normalize") != 0 && method_options_->flag("normalize");
    const bool divides = method_->whole != nullptr || method_->combine == average || normalizes;
    if (!divides || sum_of(weights) != 0) return {};
    return fail(Code::kInvalidArgument,
                fmt::format("{}: the weights sum to zero, and method '{}' divides by their sum", place, method_->name));
  }

  static double sum_of(const std::vector<double>& weights) {
    return std::accumulate(weights.begin(), weights.end(), 0.0);
  }

  Status load_parents() {
    report_.verb = "merge";
    report_.seed = options_.seed;
    report_.merge.emplace();
    for (const std::string& path : options_.sources) {
      progress("reading " + path);
      OF_ASSIGN(LoadedModel loaded, load_with_facts(path, options_.dry_run ? Hashing::kNo : Hashing::kYes));
      report_.merge->parents.push_back(loaded.facts);
      parents_.push_back(std::move(loaded.model));
      // Weight by weight they are looked at when they are merged.
      if (method_->whole == nullptr) continue;
      if (const Status finite = check_finite_weights(parents_.back()->graph()); !finite) {
        return fail(finite.error().in(path));
      }
    }
    report_.source = report_.merge->parents.back();
    if (!options_.base.empty()) {
      OF_ASSIGN(LoadedModel loaded, load_with_facts(options_.base, Hashing::kNo));
      base_ = std::move(loaded.model);
    }
    described_ = described_values(*parents_.back());
    std::vector<NamedModel> models;
    if (base_ != nullptr) models.push_back({&base_, options_.base});
    for (std::size_t i = 0; i < parents_.size(); ++i) models.push_back({&parents_[i], options_.sources[i]});
    OF_TRY(match_parents(models, {options_.data.empty() ? options_.calibration : options_.data, options_.seed},
                         report_.merge->notes));
    return describe_kinship();
  }

  // Weights say whether the models have a common base, and whether the base
  // that was named is theirs.
  Status describe_kinship() {
    int tuned = 0, strangers = 0;
    double cosine = 1;
    const bool based = base_ != nullptr;
    for (std::size_t i = 0; i + (based ? 0 : 1) < parents_.size(); ++i) {
      OF_ASSIGN(const Kinship kin, kinship(*parents_[i], based ? *base_ : *parents_.back()));
      tuned += kin.tuned_from_one_base() ? 1 : 0;
      strangers += kin.compared > 0 && kin.cosine < 0.2 ? 1 : 0;
      if (kin.compared > 0) cosine = std::min(cosine, kin.cosine);
    }
    if (based && strangers > 0) {
      note(
          fmt::format("the weights of {} of the models have nothing in common "
                      "with those of the base (median cosine "
                      "{:.2f}): is it what they were tuned from?",
                      strangers, cosine));
    }
    if (!based && tuned + 1 == static_cast<int>(parents_.size())) {
      note(
          fmt::format("the models look like fine-tunes of one base (median "
                      "cosine of their weights {:.3f}): with "
                      "--base BASE.onnx, methods on differences to it (ties, "
                      "task-arithmetic) are likely better",
                      cosine));
    }
    if (!based && strangers > 0 && method_->combine != nullptr) {
      note(
          fmt::format("the weights of the models have nothing in common "
                      "(median cosine {:.2f}): they have to be "
                      "brought into one basis first (--method align)",
                      cosine));
    }
    return {};
  }

  Status load_data() {
    if (!options_.data.empty() || options_.check) {
      OF_ASSIGN(data_, make_dataset(*parents_.back(), options_.data, options_.seed, options_.max_samples));
    }
    const std::string& calibration = options_.calibration.empty() ? options_.data : options_.calibration;
    if (calibration.empty() || (method_->whole == nullptr && !automatic_)) return {};
    auto loaded = make_dataset(*parents_.back(), calibration, options_.seed, options_.calibration_samples);
    if (!loaded) return fail(loaded.error().in("--calibration"));
    if (const Status finite = check_finite_inputs(*loaded); !finite) return fail(finite.error().in(calibration));
    calibration_ = std::move(*loaded);
    if (options_.calibration.empty() && automatic_) {
      if (!calibration_->targets.empty())
        note(
            "the method was chosen by the labels of --data, which flatters "
            "its scores; give labelled --calibration to "
            "keep them apart");
    } else if (options_.calibration.empty()) {
      note(
          "calibrated on the inputs of --data (no labels used); give "
          "--calibration to keep them apart");
    }
    return {};
  }

  void note(std::string text) { report_.merge->notes.push_back(std::move(text)); }

  std::vector<const Model*> parents() const {
    std::vector<const Model*> models;
    for (const auto& parent : parents_) models.push_back(parent.get());
    return models;
  }

  Status merge() {
    if (automatic_) OF_TRY(choose_trial_method());
    progress(std::string(method_->name));
    if (method_->combine != nullptr) {
      OF_ASSIGN(merged_, merged_plainly());
      return {};
    }
    OF_ASSIGN(const bool equal, parents_are_equal());
    if (equal) {
      note("all models have the weights of the anchor: it is the result");
      merged_ = parents_.back()->clone();
      return {};
    }
    OF_ASSIGN(whole_, merged_whole(calibration_ ? &*calibration_ : nullptr));
    merged_ = std::move(whole_.merged);
    for (std::string& text : whole_.notes) note(std::move(text));
    for (const MergeLayer& layer : whole_.layers) {
      report_.merge->layers.push_back({layer.name, layer.kind, layer.before, layer.after, layer.cost, layer.sharpness});
    }
    return {};
  }

  Result<WholeMerge> merged_whole(const Dataset* calibration) {
    WholeMergeInput input;
    const bool hidden = holds_hidden_heads(*parents_.back());
    for (const auto& parent : parents_) {
      input.parents.push_back(parent->clone());
      OF_TRY(prepare(*input.parents.back(), hidden));
    }
    input.weights = weights_;
    input.calibration = calibration;
    input.seed = options_.seed;
    auto made = method_->whole(std::move(input), *method_options_);
    if (!made) return fail(made.error().in(method_->name));
    if (hidden) {
      made->notes.emplace_back(
          "attention that holds weights of its own was written with standard "
          "operators, to move its heads");
    }
    return std::move(*made);
  }

  Result<bool> parents_are_equal() const {
    for (std::size_t i = 0; i + 1 < parents_.size(); ++i) {
      OF_ASSIGN(const bool equal, same_constants(parents_[i]->graph(), parents_.back()->graph()));
      if (!equal) return false;
    }
    return true;
  }

  // Weights inside of a fused operator: its heads are no columns of a Linear.
  static bool holds_hidden_heads(Model& model) {
    if (!infer_shapes(model)) return false;
    const std::vector<Attention> attentions = find_attentions(model.graph());
    return std::any_of(attentions.begin(), attentions.end(), [](const Attention& attention) {
      return attention.packed_weight != nullptr || attention.packed_bias != nullptr;
    });
  }

  // Constants as initializers, shared by name only where the weights are tied;
  // gains of norms in the Linears after them.
  Status prepare(Model& model, bool hidden) const {
    Recipe recipe;
    for (const char* pass : {"lift-constants", "remove-identity"}) recipe.steps.push_back({pass, {}, {}});
    if (hidden) recipe.steps.push_back({"expand-attention", {{"only-contrib", "true"}}, {}});
    if (method_->folds_norms) recipe.steps.push_back({"fold-norm-affine", {}, {}});
    const auto ran = run_pipeline(model, recipe);
    return ran ? Status() : fail(ran.error());
  }

  Status take_trial(const MergeTrial& trial) {
    method_ = find_merge_method(trial.method);
    given_ = trial.options;
    return parse_options();
  }
  Status choose_trial_method() {
    progress("choosing a method");
    const auto make = [this](const MergeTrial& trial, const Dataset* fitted) -> Result<std::unique_ptr<Model>> {
      OF_TRY(take_trial(trial));
      if (method_->combine != nullptr) return merged_plainly();
      OF_ASSIGN(WholeMerge whole, merged_whole(fitted));
      return std::move(whole.merged);
    };
    OF_ASSIGN(TrialChoice choice, choose_trial(parents(), calibration_ ? &*calibration_ : nullptr, make));
    note(std::move(choice.note));
    return take_trial(choice.trial);
  }

  Result<std::unique_ptr<Model>> merged_plainly() const {
    PlainMerge plain{method_->combine, weights_, settings_of(*method_options_), {}, options_.seed, options_.sources};
    plain.names.push_back(options_.base);
    for (const MergePattern& pattern : options_.patterns) {
      MergeRule rule{pattern.pattern, pattern.weights, plain.settings, !pattern.options.empty()};
      std::map<std::string, std::string> given = given_;
      for (const auto& [key, value] : pattern.options) given[key] = value;
      OF_ASSIGN(const PassOptions parsed, PassOptions::parse(method_->name, method_->options, given));
      rule.settings = settings_of(parsed);
      plain.rules.push_back(std::move(rule));
    }
    return merge_weights(parents(), method_->needs_base ? base_.get() : nullptr, plain);
  }

  // No paths: the same models and options give the same bytes.
  Status describe() {
    std::string line = std::string(method_->name);
    char separator = ':';
    for (const auto& [name, value] : method_options_->all()) {
      line += fmt::format("{}{}={}", separator, name, value);
      separator = ',';
    }
    report_.merge->method = line;
    std::string hashes;
    for (const ModelFacts& parent : report_.merge->parents) {
      hashes += (hashes.empty() ? "" : "+") + (parent.xxh128.empty() ? std::string(32, '0') : parent.xxh128);
    }
    stamp(*merged_, fmt::format("merge {} weights={}", line, fmt::join(weights_, ",")), hashes);
    report_.target.path = options_.target;
    report_.target.nodes = node_count(*merged_);
    report_.target.weight_bytes = weight_bytes(*merged_);
    return {};
  }

  Status add_controls(std::vector<std::string>& names, std::vector<std::unique_ptr<Model>>& models) {
    // Weights of task vectors may sum to zero.
    const std::vector<double> shares = sum_of(weights_) != 0 ? weights_ : std::vector<double>(weights_.size(), 1.0);
    if (auto plain = merge_weights(parents(), nullptr, {average, shares, {}, {}, 0, options_.sources})) {
      names.emplace_back("plain average");
      models.push_back(std::move(*plain));
    }
    if (auto half = half_anchor(parents())) {
      names.emplace_back("control: half of the anchor alone");
      models.push_back(std::move(*half));
    }
    for (std::size_t i = 0; i < whole_.aligned.size(); ++i) {
      names.push_back(fmt::format("control: aligned model {} alone", i + 1));
      models.push_back(std::move(whole_.aligned[i]));
    }
    return {};
  }

  Status score() {
    progress("scoring");
    std::vector<std::string> names;
    std::vector<std::unique_ptr<Model>> controls;
    OF_TRY(add_controls(names, controls));
    std::vector<const Model*> models;
    for (const auto& control : controls) models.push_back(control.get());
    models.push_back(merged_.get());
    auto scored = score_against_ensemble(parents(), models, *data_);
    if (!scored) return fail(scored.error().in("scoring"));
    MergeFacts& facts = *report_.merge;
    facts.task = scored->task;
    facts.scored_on = data_->origin;
    const auto row = [&](std::string name, const EnsembleScore& one) {
      facts.rows.push_back({std::move(name), one.kl, one.rel_l2, one.task});
    };
    for (std::size_t i = 0; i < parents_.size(); ++i) {
      row(fmt::format("{} (model {}{})", std::filesystem::path(options_.sources[i]).filename().string(), i + 1,
                      i + 1 == parents_.size() ? ", anchor" : ""),
          scored->parents[i]);
    }
    row("ensemble of their outputs", scored->ensemble);
    for (std::size_t i = 0; i < names.size(); ++i) row(names[i], scored->models[i]);
    row("merged", scored->models.back());
    give_verdict(*scored, names);
    return prove_gates(*scored);
  }

  // Larger is better.
  static double goodness(const EnsembleScore& score, const std::string& task) {
    if (!score.finite) return -std::numeric_limits<double>::infinity();
    if (!score.task) return -score.kl;
    return task == "accuracy" ? *score.task : -*score.task;
  }

  static std::size_t better_parent(const EnsembleReport& scored) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < scored.parents.size(); ++i) {
      if (goodness(scored.parents[i], scored.task) > goodness(scored.parents[best], scored.task)) best = i;
    }
    return best;
  }

  void give_verdict(const EnsembleReport& scored, const std::vector<std::string>& names) {
    MergeFacts& facts = *report_.merge;
    const double merged = goodness(scored.models.back(), scored.task);
    std::vector<std::string> better;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const bool counts = names[i].find("half") != std::string::npos || names[i] == "plain average";
      if (counts && goodness(scored.models[i], scored.task) > merged) better.push_back(names[i]);
    }
    const std::size_t best = better_parent(scored);
    if (goodness(scored.parents[best], scored.task) > merged) {
      better.push_back(fmt::format("the better parent (model {})", best + 1));
    }
    facts.worse = !better.empty();
    facts.verdict = better.empty() ? "the merged model is as good as its better parent "
                                     "and the controls, or better"
                                   : fmt::format("the merged model is WORSE than {}", fmt::join(better, " and "));
    if (scored.task.empty()) facts.verdict += " (by KL to the ensemble: the data has no whole-number labels)";
  }

  Status prove_gates(const EnsembleReport& scored) {
    Proof proof;
    CompareOptions compare;
    compare.padding = false;
    OF_ASSIGN(proof.comparison, compare_models(*parents_[better_parent(scored)], *merged_, *data_, compare));
    proof.gates = check_gates(options_.gates, proof.comparison);
    proof.passed =
        std::all_of(proof.gates.begin(), proof.gates.end(), [](const GateResult& gate) { return gate.passed; });
    proof.why = options_.gates.empty()
                    ? "no gate was given: only NaN, infinity and shapes are checked"
                    : fmt::format("gates against the better parent (model {})", better_parent(scored) + 1);
    for (const GateResult& gate : proof.gates) {
      if (gate.passed) continue;
      proof.why = fmt::format("{} on {}: measured {:.6g}, the limit is {:.6g}", gate.gate, gate.output, gate.measured,
                              gate.limit);
      break;
    }
    report_.proof = std::move(proof);
    return {};
  }

  Status save_result() {
    if (options_.dry_run) {
      report_.predicted = true;
      report_.target.bytes = report_.source.bytes;
      return {};
    }
    if (report_.passed()) {
      OF_TRY(save_as(options_.target, options_.save));
      report_.written = true;
      return {};
    }
    if (!options_.keep_failed) return {};
    SaveOptions forced = options_.save;
    forced.overwrite = true;
    report_.failed_path = failed_name(options_.target);
    return save_as(report_.failed_path, forced);
  }

  Status save_as(const std::string& path, SaveOptions save_options) {
    save_options.progress = [this](std::int64_t done, std::int64_t total) {
      progress("writing", total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total));
    };
    save_options.described = described_;
    return save_with_facts(*merged_, path, save_options, report_.target);
  }

  const MergeOptions& options_;
  const Clock::time_point start_ = Clock::now();
  Report report_;
  const MergeMethod* method_ = nullptr;
  bool automatic_ = false;  // a base was given, and no method
  std::map<std::string, std::string> given_;
  std::unique_ptr<PassOptions> method_options_;
  std::vector<double> weights_;
  std::vector<std::unique_ptr<Model>> parents_;
  std::unique_ptr<Model> base_, merged_;
  WholeMerge whole_;
  ValueNames described_;
  std::optional<Dataset> data_, calibration_;
};

}  // namespace

Result<Report> merge_models(const MergeOptions& options) { return Job(options).run(); }

}  // namespace onnxfold
