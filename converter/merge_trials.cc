#include "converter/merge_trials.h"

#include <fmt/format.h>

#include <limits>

#include "analysis/compare/ensemble.h"
#include "analysis/compare/task.h"

namespace onnxfold {
namespace {

const std::vector<MergeTrial> kTrials = {
    {"ties", {{"density", "0.8"}}},
    {"ties", {{"density", "0.5"}}},
    {"ties", {{"density", "0.2"}}},
    {"ties", {{"density", "1"}}},
    {"task-arithmetic", {{"lambda", "0.7"}}},
    {"task-arithmetic", {{"lambda", "1"}}},
    {"average", {}},
};

// Larger is better.
double goodness(const EnsembleScore& score, const std::string& task) {
  if (!score.finite || !score.task) return -std::numeric_limits<double>::infinity();
  return task == "accuracy" ? *score.task : -*score.task;
}

std::string shown(double value, const std::string& task) {
  return task == "accuracy" ? fmt::format("{:.2f} %", 100 * value) : fmt::format("{:.4g}", value);
}

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

std::span<const MergeTrial> merge_trials() { return kTrials; }

Result<TrialChoice> choose_trial(const std::vector<const Model*>& parents, const Dataset* data, const MakeTrial& make) {
  TrialChoice choice;
  const std::string first = kTrials.front().text();
  if (data == nullptr) {
    choice.note = fmt::format("no method was named: {}; with labelled data (--calibration) others are tried", first);
    return choice;
  }
  if (TaskMeter(*parents.front(), *data).none()) {
    choice.note = fmt::format(
        "no method was named: {}; without labels it cannot be told what is better (KL to the ensemble does not tell)",
        first);
    return choice;
  }
  std::string tried, task;
  double best = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < kTrials.size(); ++i) {
    OF_ASSIGN(const std::unique_ptr<Model> model, make(kTrials[i]));
    OF_ASSIGN(const EnsembleReport scored, score_against_ensemble(parents, {model.get()}, *data));
    task = scored.task;
    const EnsembleScore& score = scored.models.front();
    const double good = goodness(score, task);
    tried += fmt::format("{}{} {}", tried.empty() ? "" : ", ", kTrials[i].text(), shown(score.task.value_or(0), task));
    if (i > 0 && !(good > best)) continue;
    best = good;
    choice.trial = i;
  }
  choice.note = fmt::format("no method was named: {} is best of what was tried, by {} on {}: {}",
                            kTrials[choice.trial].text(), task, data->origin, tried);
  return choice;
}

}  // namespace onnxfold
