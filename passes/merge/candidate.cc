#include "passes/merge/candidate.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

#include "analysis/compare/ensemble.h"
#include "passes/merge/augment.h"
#include "passes/merge/read_position.h"
#include "passes/merge/repair.h"
#include "passes/merge/weights.h"

namespace onnxfold {
namespace {

using RepairFunction = Result<int> (*)(Model&, const std::vector<const Model*>&, const Dataset&, const RepairOptions&);

// What focus=0 tries beside 1.
constexpr double kFocus = 5;
// Nine of every image up to 512 of them, then fewer of each: values of all of them are held.
constexpr std::int64_t kMostImages = 9 * 512;

Dataset half_of(const Dataset& data, std::size_t which) {
  Dataset half{{}, {}, {}, data.origin};
  for (std::size_t i = which; i < data.batches.size(); i += 2) {
    half.batches.push_back(data.batches[i]);
    half.batch_sizes.push_back(data.batch_sizes[i]);
  }
  return half;
}

std::vector<const Model*> in_one_basis(const Candidate& candidate, const WholeMergeInput& input) {
  std::vector<const Model*> parents;
  for (const auto& model : candidate.aligned) parents.push_back(model.get());
  parents.push_back(input.parents.back().get());
  return parents;
}

// Chooses among candidates and settings of the repair by what was held out, then repairs what was chosen.
class Choice {
 public:
  Choice(std::vector<Candidate>& candidates, const WholeMergeInput& input, const PassOptions& options,
         WholeMerge& result)
      : candidates_(candidates), input_(input), options_(options), result_(result) {}

  Status run() {
    const std::string kind = options_.text("repair");
    if (input_.calibration != nullptr && kind != "none") {
      run_ = kind == "ridge" ? repair_ridge : kind == "regmean" ? repair_regmean : repair_stats;
    }
    settings_ = {options_.number("damping"),
                 options_.text("target") == "stream",
                 static_cast<int>(options_.integer("rounds")),
                 options_.text("together") == "yes",
                 options_.number("focus") > 0 ? options_.number("focus") : 1,
                 input_.weights};
    OF_ASSIGN(Candidate* const best, chosen());
    if (run_ != nullptr) OF_TRY(repair(*best));
    result_.merged = std::move(best->merged);
    result_.aligned = std::move(best->aligned);
    result_.layers = std::move(best->layers);
    return {};
  }

 private:
  void note(std::string text) { result_.notes.push_back(std::move(text)); }
  // Of every image, where augment asks for more than one.
  int copies() const {
    const auto& sizes = input_.calibration->batch_sizes;
    const std::int64_t images = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
    if (options_.text("augment") == "move" || images == 0) return 9;
    return static_cast<int>(std::clamp<std::int64_t>(kMostImages / images, 1, 9));
  }
  bool may_move() const {
    return options_.text("augment") != "none" && copies() > 1 && has_images(*input_.calibration);
  }
  bool holds_out() const { return run_ != nullptr && input_.calibration->batches.size() > 1; }

  // Of a repair fitted to some of the data, on other data.
  Result<double> held_out(const Candidate& candidate, const Dataset& seen, const Dataset& unseen,
                          const RepairOptions& settings) const {
    const std::unique_ptr<Model> copy = candidate.merged->clone();
    const auto parents = in_one_basis(candidate, input_);
    OF_TRY(run_(*copy, parents, seen, settings));
    OF_ASSIGN(const EnsembleReport report, score_against_ensemble(parents, {copy.get()}, unseen));
    return report.models.front().kl;
  }
  // As it is, or repaired as well as one batch allows.
  Result<double> seen(const Candidate& candidate) const {
    if (run_ != nullptr) return held_out(candidate, *input_.calibration, *input_.calibration, settings_);
    OF_ASSIGN(const EnsembleReport report,
              score_against_ensemble(in_one_basis(candidate, input_), {candidate.merged.get()}, *input_.calibration));
    return report.models.front().kl;
  }

  Result<Candidate*> chosen() {
    if (candidates_.size() == 1) {
      note(candidates_.front().name);
      return &candidates_.front();
    }
    std::size_t best = 0;
    std::vector<double> scores;
    std::optional<Dataset> one, other;
    if (holds_out()) {
      one = half_of(*input_.calibration, 0);
      other = half_of(*input_.calibration, 1);
      if (may_move()) {
        OF_ASSIGN(other, with_moved_images(*other, copies()));
      }
    }
    for (const Candidate& each : candidates_) {
      OF_ASSIGN(const double score, one ? held_out(each, *one, *other, settings_) : seen(each));
      scores.push_back(score);
      if (score < scores[best]) best = scores.size() - 1;
    }
    for (std::size_t i = 0; i < scores.size(); ++i) {
      note(fmt::format("{}: KL to the ensemble {:.4g} on {} data{}", candidates_[i].name, scores[i],
                       holds_out() ? "held-out" : "the calibration", i == best ? " (chosen)" : ""));
    }
    return &candidates_[best];
  }

  Status repair(Candidate& candidate) {
    OF_TRY(choose_settings(candidate));
    std::optional<Dataset> moved;
    if (move_images_) {
      OF_ASSIGN(moved, with_moved_images(*input_.calibration, copies()));
    }
    OF_ASSIGN(const int fitted, run_(*candidate.merged, in_one_basis(candidate, input_),
                                     moved ? *moved : *input_.calibration, settings_));
    note(fmt::format("{} Linears repaired ({})", fitted, options_.text("repair")));
    return {};
  }

  // Do moved images help, and should the position that the outputs read weigh more? Seen on the half of the batches
  // that no repair was fitted to, moved as well: parents know the images they were trained on, and calibration data is
  // often of these, better than those they will see.
  Status choose_settings(const Candidate& candidate) {
    const std::string augment = options_.text("augment");
    move_images_ = augment == "move";
    const bool ridge = options_.text("repair") == "ridge";
    const bool ask_images = augment == "auto" && holds_out() && may_move();
    const bool ask_focus =
        ridge && options_.number("focus") == 0 && holds_out() && read_position(candidate.merged->graph()).has_value();
    const bool ask_together = ridge && settings_.stream && options_.text("together") == "auto" && holds_out();
    if (!ask_images && !ask_focus && !ask_together) return {};
    const Dataset one = half_of(*input_.calibration, 0);
    Dataset other = half_of(*input_.calibration, 1);
    std::optional<Dataset> moved;
    if (ask_images || move_images_) {
      OF_ASSIGN(moved, with_moved_images(one, copies()));
      OF_ASSIGN(other, with_moved_images(other, copies()));
    }
    double least = std::numeric_limits<double>::infinity();
    if (ask_images) {
      OF_ASSIGN(const double plain, held_out(candidate, one, other, settings_));
      OF_ASSIGN(least, held_out(candidate, *moved, other, settings_));
      move_images_ = least < plain;
      note(fmt::format("held out: KL {:.4g}, repaired with moved images {:.4g}", plain, least));
      least = std::min(least, plain);
    } else {
      OF_ASSIGN(least, held_out(candidate, move_images_ ? *moved : one, other, settings_));
    }
    const Dataset& fitted = move_images_ ? *moved : one;
    if (ask_focus) {
      RepairOptions focused = settings_;
      focused.focus = kFocus;
      OF_TRY(
          try_settings(candidate, focused, "where the position that the outputs read weighs 5", fitted, other, least));
    }
    if (ask_together) {
      RepairOptions together = settings_;
      together.together = true;
      OF_TRY(try_settings(candidate, together, "with two branches at a time", fitted, other, least));
    }
    return {};
  }
  Status try_settings(const Candidate& candidate, const RepairOptions& settings, const std::string& what,
                      const Dataset& fitted, const Dataset& other, double& least) {
    OF_ASSIGN(const double kl, held_out(candidate, fitted, other, settings));
    note(fmt::format("held out: KL {:.4g}, {} {:.4g}", least, what, kl));
    if (kl >= least) return {};
    settings_ = settings;
    least = kl;
    return {};
  }

  std::vector<Candidate>& candidates_;
  const WholeMergeInput& input_;
  const PassOptions& options_;
  WholeMerge& result_;
  RepairFunction run_ = nullptr;
  RepairOptions settings_;
  bool move_images_ = false;
};

}  // namespace

Status average_parents(Candidate& candidate, const WholeMergeInput& input) {
  const auto parents = in_one_basis(candidate, input);
  OF_ASSIGN(candidate.merged, merge_weights(parents, nullptr, {average, input.weights, {}, {}, 0}));
  if (input.calibration == nullptr) return {};
  OF_ASSIGN(const int norms, recompute_batch_statistics(*candidate.merged, *input.calibration));
  if (norms > 0) candidate.name += fmt::format(", statistics of {} BatchNormalizations recomputed", norms);
  return {};
}

Status take_best(std::vector<Candidate>& candidates, const WholeMergeInput& input, const PassOptions& options,
                 WholeMerge& result) {
  return Choice(candidates, input, options, result).run();
}

}  // namespace onnxfold
