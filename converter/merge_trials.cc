#include "converter/merge_trials.h"

#include <fmt/format.h>

#include <limits>

#include "analysis/calibrate/sample_split.h"
#include "analysis/compare/ensemble.h"
#include "analysis/compare/task.h"

namespace onnxfold {
namespace {

// In the order of preference: of equals the earlier one is taken.
const std::vector<MergeTrial> kTrials = {
    {"ties", {{"density", "0.8"}}},
    {"ties", {{"density", "0.5"}}},
    {"ties", {{"density", "0.2"}}},
    {"ties", {{"density", "1"}}},
    {"task-arithmetic", {{"lambda", "0.7"}}},
    {"task-arithmetic", {{"lambda", "1"}}},
    {"average", {}},
};
// Fitted to half of the data, without what takes long.
const MergeTrial kQuickAlign = {"align", {{"augment", "none"}, {"focus", "1"}, {"together", "no"}}};
const MergeTrial kAlign = {"align", {}};

struct Scored {
  double good = -std::numeric_limits<double>::infinity();  // larger is better
  std::string shown;
};

std::string shown(double value, const std::string& task) {
  return task == "accuracy" ? fmt::format("{:.2f} %", 100 * value) : fmt::format("{:.4g}", value);
}

Result<Scored> score(const std::vector<const Model*>& parents, const Model& model, const Dataset& data) {
  OF_ASSIGN(const EnsembleReport report, score_against_ensemble(parents, {&model}, data));
  const EnsembleScore& found = report.models.front();
  if (!found.finite || !found.task) return Scored{{}, "not finite"};
  return Scored{report.task == "accuracy" ? *found.task : -*found.task, shown(*found.task, report.task)};
}

// Every second batch from `which` on, with the rows of the labels that belong to it.
Result<Dataset> half_of(const Dataset& data, std::size_t which) {
  Dataset half{{}, {}, {}, data.origin};
  std::vector<std::int64_t> chosen;  // of all samples
  std::int64_t samples = 0;
  for (std::size_t i = 0; i < data.batches.size(); ++i) {
    const std::int64_t next = samples + data.batch_sizes[i];
    if (i % 2 == which) {
      half.batches.push_back(data.batches[i]);
      half.batch_sizes.push_back(data.batch_sizes[i]);
      for (std::int64_t sample = samples; sample < next; ++sample) chosen.push_back(sample);
    }
    samples = next;
  }
  for (const auto& [name, tensor] : data.targets) {
    if (tensor.rank() == 0 || tensor.dims()[0] != samples || samples == 0) continue;
    OF_ASSIGN(half.targets[name], target_of_samples(tensor, chosen));
  }
  return half;
}

class Trials {
 public:
  Trials(const std::vector<const Model*>& parents, const Dataset& data, const MakeTrial& make)
      : parents_(parents), data_(data), make_(make) {}

  Result<TrialChoice> run() {
    OF_TRY(try_differences());
    if (data_.batches.size() > 1) OF_TRY(try_align());
    return TrialChoice{best_, fmt::format("no method was named: {} is best of what "
                                          "was tried, by the labels of {}: {}",
                                          best_.text(), data_.origin, tried_)};
  }

 private:
  Status try_differences() {
    Scored best;
    for (const MergeTrial& trial : kTrials) {
      OF_ASSIGN(const std::unique_ptr<Model> model, make_(trial, nullptr));
      OF_ASSIGN(const Scored scored, score(parents_, *model, data_));
      tried_ += fmt::format("{}{} {}", tried_.empty() ? "" : ", ", trial.text(), scored.shown);
      if (&trial != &kTrials.front() && !(scored.good > best.good)) continue;
      best = scored;
      best_ = trial;
    }
    return {};
  }
  Status try_align() {
    OF_ASSIGN(const Dataset fitted, half_of(data_, 0));
    OF_ASSIGN(const Dataset judged, half_of(data_, 1));
    OF_ASSIGN(const std::unique_ptr<Model> aligned, make_(kQuickAlign, &fitted));
    OF_ASSIGN(const Scored one, score(parents_, *aligned, judged));
    OF_ASSIGN(const std::unique_ptr<Model> other, make_(best_, nullptr));
    OF_ASSIGN(const Scored two, score(parents_, *other, judged));
    tried_ +=
        fmt::format("; on the half that no repair is fitted to: align {}, {} {}", one.shown, best_.text(), two.shown);
    if (one.good > two.good) best_ = kAlign;
    return {};
  }

  const std::vector<const Model*>& parents_;
  const Dataset& data_;
  const MakeTrial& make_;
  MergeTrial best_;
  std::string tried_;
};

}  // namespace

std::string MergeTrial::text() const {
  std::string result = method;
  char separator = ':';
  for (const auto& [key, value] : options) {
    result += fmt::format("{}{}={}", separator, key, value);
    separator = ',';
  }
  return result;
}

const MergeTrial& first_trial() { return kTrials.front(); }

Result<TrialChoice> choose_trial(const std::vector<const Model*>& parents, const Dataset* data, const MakeTrial& make) {
  const std::string first = first_trial().text();
  if (data == nullptr) {
    return TrialChoice{first_trial(), fmt::format("no method was named: {}; with labelled "
                                                  "data (--calibration) others "
                                                  "are tried",
                                                  first)};
  }
  if (TaskMeter(*parents.front(), *data).none()) {
    return TrialChoice{first_trial(), fmt::format("no method was named: {}; without labels it cannot be told what is "
                                                  "better (KL to the ensemble does not tell)",
                                                  first)};
  }
  return Trials(parents, *data, make).run();
}

}  // namespace onnxfold
