#include "analysis/compare/ensemble.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "analysis/compare/padding.h"
#include "analysis/compare/task.h"

namespace onnxfold {
namespace {

// Scores that are probabilities already are not made into probabilities again.
bool is_distribution(const double* row, std::int64_t width) {
  double sum = 0;
  for (std::int64_t i = 0; i < width; ++i) {
    if (!(row[i] >= 0 && row[i] <= 1)) return false;
    sum += row[i];
  }
  return width > 1 && std::abs(sum - 1) < 1e-4;
}

// log softmax of every row of `width`.
std::vector<double> log_softmax(const std::vector<double>& scores, std::int64_t width) {
  std::vector<double> result(scores.size());
  const auto row_width = static_cast<std::size_t>(width);
  for (std::size_t start = 0; start + row_width <= scores.size(); start += row_width) {
    const double* row = scores.data() + start;
    if (is_distribution(row, width)) {
      for (std::size_t i = 0; i < row_width; ++i) result[start + i] = std::log(std::max(row[i], 1e-300));
      continue;
    }
    const double largest = *std::max_element(row, row + width);
    double sum = 0;
    for (std::int64_t i = 0; i < width; ++i) sum += std::exp(row[i] - largest);
    const double log_sum = std::log(sum) + largest;
    for (std::size_t i = 0; i < row_width; ++i) result[start + i] = row[i] - log_sum;
  }
  return result;
}

std::optional<std::size_t> scores_output(const Model& model) {
  const auto& outputs = model.graph().outputs();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (is_float(outputs[i]->dtype()) && outputs[i]->rank().value_or(2) >= 2) return i;
  }
  return {};
}

struct Sums {
  double kl = 0, squared = 0;
  bool finite = true;
};

class Scorer {
 public:
  Scorer(const std::vector<const Model*>& parents, const std::vector<const Model*>& models, const Dataset& data)
      : parents_(parents.size()), data_(data), sums_(parents.size() + models.size()) {
    all_ = parents;
    all_.insert(all_.end(), models.begin(), models.end());
  }

  Result<EnsembleReport> run() {
    const auto output = scores_output(*all_.front());
    if (!output) return fail(Code::kUnsupported, "no output holds rows of numbers to compare with the ensemble");
    output_ = *output;
    for (const Model* model : all_) {
      OF_ASSIGN(executors_.emplace_back(), Executor::create(*model));
      meters_.emplace_back(*model, data_);
    }
    ensemble_meter_ = std::make_unique<TaskMeter>(*all_.front(), data_);
    for (const Feeds& feeds : data_.batches) OF_TRY(add(feeds));
    return result();
  }

 private:
  Status add(const Feeds& feeds) {
    std::vector<RunResult> runs;
    std::vector<std::vector<double>> scores;
    for (std::size_t i = 0; i < all_.size(); ++i) {
      OF_ASSIGN(RunResult run, executors_[i]->run(feeds));
      if (!run.outputs[output_].is_array()) return fail(Code::kUnsupported, "the scores are no array");
      OF_ASSIGN(std::vector<double> numbers, to_doubles(run.outputs[output_].array));
      if (!scores.empty() && numbers.size() != scores.front().size()) {
        return fail(Code::kInvalidArgument, "the models' outputs differ in size");
      }
      scores.push_back(std::move(numbers));
      runs.push_back(std::move(run));
    }
    const Array& like = runs.front().outputs[output_].array;
    const std::int64_t width = like.rank() > 0 ? like.dim(-1) : 1;
    const std::vector<double> target = ensemble(scores, width);
    mean_of(scores);
    const std::vector<char> counted = counted_rows(like, feeds);
    for (std::size_t i = 0; i < all_.size(); ++i) add_scores(sums_[i], scores[i], target, counted);
    add_signal(counted);
    return add_tasks(feeds, runs, target, like);
  }

  // log of the mean of the parents' probabilities.
  std::vector<double> ensemble(const std::vector<std::vector<double>>& scores, std::int64_t width) const {
    std::vector<double> mean(scores.front().size());
    for (std::size_t p = 0; p < parents_; ++p) {
      const std::vector<double> logs = log_softmax(scores[p], width);
      for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += std::exp(logs[i]) / static_cast<double>(parents_);
    }
    for (double& x : mean) x = std::log(std::max(x, 1e-300));
    return mean;
  }

  void mean_of(const std::vector<std::vector<double>>& scores) {
    mean_.assign(scores.front().size(), 0);
    for (std::size_t p = 0; p < parents_; ++p) {
      for (std::size_t i = 0; i < mean_.size(); ++i) mean_[i] += scores[p][i] / static_cast<double>(parents_);
    }
  }

  // By row of the last axis: 0 where it is padding.
  std::vector<char> counted_rows(const Array& output, const Feeds& feeds) const {
    const std::int64_t width = std::max<std::int64_t>(1, output.rank() > 0 ? output.dim(-1) : 1);
    const RowMask padding = output_padding(*all_.front(), feeds);
    if (covers(padding, output)) return padding.keep;
    return std::vector<char>(static_cast<std::size_t>(output.size() / width), 1);
  }

  void add_signal(const std::vector<char>& counted) {
    const std::size_t width = mean_.size() / std::max<std::size_t>(1, counted.size());
    for (std::size_t i = 0; i < mean_.size(); ++i) signal_ += counted[i / width] != 0 ? mean_[i] * mean_[i] : 0;
    rows_ += std::count(counted.begin(), counted.end(), 1);
  }

  void add_scores(Sums& sums, const std::vector<double>& scores, const std::vector<double>& target,
                  const std::vector<char>& counted) const {
    const std::size_t width = scores.size() / std::max<std::size_t>(1, counted.size());
    const std::vector<double> logs = log_softmax(scores, static_cast<std::int64_t>(width));
    for (std::size_t i = 0; i < scores.size(); ++i) {
      sums.finite = sums.finite && std::isfinite(scores[i]);
      if (counted[i / width] == 0) continue;
      const double p = std::exp(target[i]);
      if (p > 0) sums.kl += p * (target[i] - logs[i]);
      const double d = scores[i] - mean_[i];
      sums.squared += d * d;
    }
  }

  Status add_tasks(const Feeds& feeds, const std::vector<RunResult>& runs, const std::vector<double>& target,
                   const Array& like) {
    if (ensemble_meter_->none()) return {};
    for (std::size_t i = 0; i < all_.size(); ++i) {
      OF_TRY(meters_[i].add(feeds, runs.front().outputs, runs[i].outputs));
    }
    std::vector<Datum> outputs = runs.front().outputs;
    Array logs(DType::kFloat64, like.dims(), Precision::kFloat64);
    std::copy(target.begin(), target.end(), logs.mutable_data<double>());
    outputs[output_] = Datum(std::move(logs));
    return ensemble_meter_->add(feeds, runs.front().outputs, outputs);
  }

  EnsembleReport result() const {
    EnsembleReport report;
    report.output = all_.front()->graph().outputs()[output_]->name();
    for (const std::int64_t size : data_.batch_sizes) report.samples += size;
    if (const auto task = ensemble_meter_->result()) {
      report.task = task->kind;
      report.ensemble.task = task->after;
    }
    for (std::size_t i = 0; i < all_.size(); ++i) {
      EnsembleScore score;
      score.kl = sums_[i].kl / static_cast<double>(std::max<std::int64_t>(rows_, 1));
      score.rel_l2 = signal_ > 0 ? std::sqrt(sums_[i].squared / signal_) : 0;
      score.finite = sums_[i].finite;
      if (const auto task = meters_[i].result()) score.task = task->after;
      (i < parents_ ? report.parents : report.models).push_back(score);
    }
    return report;
  }

  std::size_t parents_;
  const Dataset& data_;
  std::vector<const Model*> all_;
  std::vector<std::unique_ptr<Executor>> executors_;
  std::vector<TaskMeter> meters_;
  std::unique_ptr<TaskMeter> ensemble_meter_;
  std::vector<Sums> sums_;
  std::vector<double> mean_;
  std::size_t output_ = 0;
  std::int64_t rows_ = 0;
  double signal_ = 0;
};

}  // namespace

Result<EnsembleReport> score_against_ensemble(const std::vector<const Model*>& parents,
                                              const std::vector<const Model*>& models, const Dataset& data) {
  return Scorer(parents, models, data).run();
}

}  // namespace onnxfold
