#include "converter/merge_score.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "analysis/compare/ensemble.h"
#include "passes/merge/controls.h"
#include "passes/merge/weights.h"

namespace onnxfold {
namespace {

struct Control {
  std::string name;
  std::unique_ptr<Model> model;
  bool judges = true;  // the merged model should be better
};

std::vector<Control> controls_of(const MergeOptions& options, const MergeSources& sources,
                                 const std::vector<double>& weights, Merged& merged) {
  std::vector<Control> controls;
  // Weights of task vectors may sum to zero.
  const std::vector<double> shares = sum_of(weights) != 0 ? weights : std::vector<double>(weights.size(), 1.0);
  if (auto plain = merge_weights(sources.views(), nullptr, {average, shares, {}, {}, 0, options.sources})) {
    controls.push_back({"plain average", std::move(*plain)});
  }
  if (auto half = half_anchor(sources.views())) {
    controls.push_back({"control: half of the anchor alone", std::move(*half)});
  }
  for (std::size_t i = 0; i < merged.aligned.size(); ++i) {
    controls.push_back({fmt::format("control: aligned model {} alone", i + 1), std::move(merged.aligned[i]), false});
  }
  return controls;
}

// Larger is better.
double goodness(const EnsembleScore& score, const std::string& task) {
  if (!score.finite) return -std::numeric_limits<double>::infinity();
  if (!score.task) return -score.kl;
  return task == "accuracy" ? *score.task : -*score.task;
}

std::size_t better_parent(const EnsembleReport& scored) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < scored.parents.size(); ++i) {
    if (goodness(scored.parents[i], scored.task) > goodness(scored.parents[best], scored.task)) best = i;
  }
  return best;
}

std::vector<MergeRow> rows_of(const EnsembleReport& scored, const std::vector<std::string>& sources,
                              const std::vector<Control>& controls) {
  std::vector<MergeRow> rows;
  const auto row = [&](std::string name, const EnsembleScore& one) {
    rows.push_back({std::move(name), one.kl, one.rel_l2, one.task});
  };
  for (std::size_t i = 0; i < sources.size(); ++i) {
    row(fmt::format("{} (model {}{})", std::filesystem::path(sources[i]).filename().string(), i + 1,
                    i + 1 == sources.size() ? ", anchor" : ""),
        scored.parents[i]);
  }
  row("ensemble of their outputs", scored.ensemble);
  for (std::size_t i = 0; i < controls.size(); ++i) row(controls[i].name, scored.models[i]);
  row("merged", scored.models.back());
  return rows;
}

void give_verdict(const EnsembleReport& scored, const std::vector<Control>& controls, MergeFacts& facts) {
  const double merged = goodness(scored.models.back(), scored.task);
  std::vector<std::string> better;
  for (std::size_t i = 0; i < controls.size(); ++i) {
    if (controls[i].judges && goodness(scored.models[i], scored.task) > merged) better.push_back(controls[i].name);
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

Result<Proof> proof_against(const Model& parent, std::size_t number, const Model& merged, const Dataset& data,
                            const Gates& gates) {
  Proof proof;
  CompareOptions compare;
  compare.padding = false;
  OF_ASSIGN(proof.comparison, compare_models(parent, merged, data, compare));
  proof.gates = check_gates(gates, proof.comparison);
  proof.passed =
      std::all_of(proof.gates.begin(), proof.gates.end(), [](const GateResult& gate) { return gate.passed; });
  proof.why = gates.empty() ? "no gate was given: only NaN, infinity and shapes are checked"
                            : fmt::format("gates against the better parent (model {})", number);
  for (const GateResult& gate : proof.gates) {
    if (gate.passed) continue;
    proof.why = fmt::format("{} on {}: measured {:.6g}, the limit is {:.6g}", gate.gate, gate.output, gate.measured,
                            gate.limit);
    break;
  }
  return proof;
}

}  // namespace

Result<Proof> score_merge(const MergeOptions& options, const MergeSources& sources, const std::vector<double>& weights,
                          Merged& merged, MergeFacts& facts) {
  if (options.progress) options.progress("scoring", -1);
  const std::vector<Control> controls = controls_of(options, sources, weights, merged);
  std::vector<const Model*> models;
  models.reserve(controls.size() + 1);
  for (const Control& control : controls) models.push_back(control.model.get());
  models.push_back(merged.model.get());
  const auto scored = score_against_ensemble(sources.views(), models, *sources.data);
  if (!scored) return fail(scored.error().in("scoring"));
  facts.task = scored->task;
  facts.scored_on = sources.data->origin;
  facts.rows = rows_of(*scored, options.sources, controls);
  give_verdict(*scored, controls, facts);
  const std::size_t best = better_parent(*scored);
  return proof_against(*sources.parents[best], best + 1, *merged.model, *sources.data, options.gates);
}

}  // namespace onnxfold
