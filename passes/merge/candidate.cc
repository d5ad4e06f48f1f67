#include "passes/merge/candidate.h"

#include <fmt/format.h>

#include <optional>

#include "analysis/compare/ensemble.h"
#include "passes/merge/augment.h"
#include "passes/merge/repair.h"
#include "passes/merge/weights.h"

namespace onnxfold {
namespace {

using RepairFunction = Result<int> (*)(Model&, const std::vector<const Model*>&, const Dataset&, const RepairOptions&);

struct RepairJob {
  RepairFunction run;
  RepairOptions options;
  std::vector<const Model*> parents;  // in one basis, the anchor last
};

Dataset half_of(const Dataset& data, std::size_t which) {
  Dataset half{{}, {}, {}, data.origin};
  for (std::size_t i = which; i < data.batches.size(); i += 2) {
    half.batches.push_back(data.batches[i]);
    half.batch_sizes.push_back(data.batch_sizes[i]);
  }
  return half;
}

Result<double> held_out_kl(const Model& merged, const RepairJob& job, const Dataset& seen, const Dataset& unseen) {
  const std::unique_ptr<Model> copy = merged.clone();
  OF_TRY(job.run(*copy, job.parents, seen, job.options));
  OF_ASSIGN(const EnsembleReport report, score_against_ensemble(job.parents, {copy.get()}, unseen));
  return report.models.front().kl;
}

// Do moved images help? Seen on the half of the batches that no repair was fitted to, moved as well: parents know the
// images they were trained on, and calibration data is often of these, better than those they will see.
Result<bool> moving_helps(Candidate& candidate, const RepairJob& job, const Dataset& data) {
  if (data.batches.size() < 2 || !has_images(data)) return false;
  const Dataset seen = half_of(data, 0);
  OF_ASSIGN(const Dataset unseen, with_moved_images(half_of(data, 1)));
  OF_ASSIGN(const Dataset moved, with_moved_images(seen));
  OF_ASSIGN(const double plain, held_out_kl(*candidate.merged, job, seen, unseen));
  OF_ASSIGN(const double augmented, held_out_kl(*candidate.merged, job, moved, unseen));
  candidate.name += fmt::format(", held out: KL {:.4g}, with moved images {:.4g}", plain, augmented);
  return augmented < plain;
}

Status repair_candidate(Candidate& candidate, const std::vector<const Model*>& parents, const WholeMergeInput& input,
                        const PassOptions& options) {
  if (input.calibration == nullptr) return {};
  const std::string kind = options.text("repair");
  OF_ASSIGN(const int norms, recompute_batch_statistics(*candidate.merged, *input.calibration));
  if (norms > 0) candidate.name += fmt::format(", statistics of {} BatchNormalizations recomputed", norms);
  if (kind == "none") return {};
  const RepairJob job{kind == "ridge"     ? repair_ridge
                      : kind == "regmean" ? repair_regmean
                                          : repair_stats,
                      {options.number("damping"), options.text("target") == "stream",
                       static_cast<int>(options.integer("rounds")), input.weights},
                      parents};
  const std::string augment = options.text("augment");
  candidate.move_images = augment == "move";
  if (augment == "auto" && input.move_images) {
    candidate.move_images = *input.move_images;
  } else if (augment == "auto") {
    OF_ASSIGN(candidate.move_images, moving_helps(candidate, job, *input.calibration));
  }
  std::optional<Dataset> moved;
  if (candidate.move_images) {
    OF_ASSIGN(moved, with_moved_images(*input.calibration));
  }
  const Dataset& data = moved ? *moved : *input.calibration;
  OF_ASSIGN(const int fitted, job.run(*candidate.merged, parents, data, job.options));
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
