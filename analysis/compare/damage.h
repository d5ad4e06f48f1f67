// Damage: one number for how much worse a changed model does on data, and the task metric beside it.
//
// With labels or tokens to predict: the mean cross-entropy in nats. Without: the mean KL divergence from the original's
// outputs where these are scores (logits, probabilities), else the relative L2 error of the outputs, all squared errors
// over all squares. Lower is better. Positions that are padding by a mask input of the data count in none of them
// (padding.h).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/calibrate/part.h"
#include "analysis/compare/metrics.h"

namespace onnxfold {

class OutputAccumulator;

struct Damage {
  double value = 0;
  double task = 0;  // accuracy, bits per byte or perplexity; 0 when there is no task
};

class DamageMeter {
 public:
  enum class Kind { kLoss, kKl, kError };
  // Which rows of the outputs the KL and the error count: all, or those that fits hold out (held_out_rows of
  // refit.h; all where there are too few samples for that).
  enum class Rows { kAll, kHeldOut };

  // Runs the original once. `force`: measure this even where a better kind is possible (kLoss needs a task).
  // `outputs`: of the original on the data where somebody ran it already.
  // Errors: invalid_argument when a loss is asked for and neither labels nor tokens are there; the executor's.
  static Result<DamageMeter> create(const Model& original, const Dataset& data, std::optional<Kind> force = {},
                                    const Recording* outputs = nullptr, Rows rows = Rows::kAll);
  // `outputs` holds the changed model's outputs by name; those that it no longer has are not judged.
  Result<Damage> measure(const Recording& outputs) const;
  // The same after running the model.
  Result<Damage> measure(const Model& changed) const;

  // The value of measure(), batch by batch: how far it can be trusted. Batches without anything to judge are left out.
  Result<std::vector<double>> by_batch(const Recording& outputs) const;

  Kind kind() const { return kind_; }
  // "loss", "KL", "error"; and of the task: "accuracy", "bits per byte", "perplexity", or empty.
  std::string_view kind_name() const;
  const std::string& task_kind() const { return task_kind_; }
  const Damage& original() const { return base_; }
  const Dataset& data() const { return *data_; }
  std::vector<std::string> output_names() const;
  const Recording& original_outputs() const { return outputs_; }

 private:
  Result<std::optional<TaskMetrics>> task_of(const Recording& outputs) const;
  Result<double> distance(const Recording& outputs, std::size_t begin, std::size_t end) const;
  Status add_rows(OutputAccumulator& sums, const Datum& before, const Datum& after, std::size_t batch) const;

  std::shared_ptr<const Model> model_;  // for its interface
  const Dataset* data_ = nullptr;
  Kind kind_ = Kind::kError;
  std::string task_kind_;
  Recording outputs_;
  Damage base_;
  Rows rows_ = Rows::kAll;
  std::vector<RowMask> masks_;  // by batch
};

}  // namespace onnxfold
