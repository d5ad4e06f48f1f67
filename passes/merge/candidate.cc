#include "passes/merge/candidate.h"

#include <fmt/format.h>

#include <optional>

#include "analysis/compare/ensemble.h"
#include "passes/merge/augment.h"
#include "passes/merge/repair.h"
#include "passes/merge/weights.h"

namespace onnxfold {
namespace {

// `parents` are in one basis, the anchor last.
Status repair_candidate(Candidate& candidate, const std::vector<const Model*>& parents, const WholeMergeInput& input,
                        const PassOptions& options) {
  if (input.calibration == nullptr) return {};
  const std::string kind = options.text("repair");
  OF_ASSIGN(const int norms, recompute_batch_statistics(*candidate.merged, *input.calibration));
  if (norms > 0) candidate.name += fmt::format(", statistics of {} BatchNormalizations recomputed", norms);
  if (kind == "none") return {};
  const RepairOptions repair{options.number("damping"), options.text("target") == "stream",
                             static_cast<int>(options.integer("rounds")), input.weights};
  std::optional<Dataset> moved;
  if (options.text("augment") == "move") {
    OF_ASSIGN(moved, with_moved_images(*input.calibration));
  }
  const Dataset& data = moved ? *moved : *input.calibration;
  const auto run = kind == "ridge" ? repair_ridge : kind == "regmean" ? repair_regmean : repair_stats;
  OF_ASSIGN(const int fitted, run(*candidate.merged, parents, data, repair));
  candidate.name += fmt::format(", {} Linears repaired ({})", fitted, kind);
  return {};
}

}  // namespace

Status average_and_repair(Candidate& candidate, const WholeMergeInput& input, const PassOptions& options) {
  std::vector<const Model*> parents;
  for (const auto& model : candidate.aligned) parents.push_back(model.get());
  parents.push_back(input.parents.back().get());
  OF_ASSIGN(candidate.merged, merge_weights(parents, nullptr, {average, input.weights, {}, {}, 0}));
  return repair_candidate(candidate, parents, input, options);
}

Status take_best(std::vector<Candidate>& candidates, const WholeMergeInput& input, WholeMerge& result) {
  std::size_t best = 0;
  if (candidates.size() == 1) {
    result.notes.push_back(candidates.front().name);
  } else {
    std::vector<const Model*> parents, models;
    for (const auto& parent : input.parents) parents.push_back(parent.get());
    for (const Candidate& each : candidates) models.push_back(each.merged.get());
    OF_ASSIGN(const EnsembleReport report, score_against_ensemble(parents, models, *input.calibration));
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      if (report.models[i].kl < report.models[best].kl) best = i;
    }
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      result.notes.push_back(fmt::format("{}: KL to the ensemble {:.4g} on the calibration data{}", candidates[i].name,
                                         report.models[i].kl, i == best ? " (chosen)" : ""));
    }
  }
  result.merged = std::move(candidates[best].merged);
  result.aligned = std::move(candidates[best].aligned);
  result.layers = std::move(candidates[best].layers);
  return {};
}

}  // namespace onnxfold
