// Does the model still do its job? Accuracy from labels, perplexity from next tokens.
#pragma once

#include <optional>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "analysis/compare/metrics.h"

namespace onnxfold {

// Collects what the data's targets allow, over both models' outputs, batch by batch.
class TaskMeter {
 public:
  // Finds out which task the data and the model are for; none() when neither labels nor tokens say.
  TaskMeter(const Model& model, const Dataset& data);
  bool none() const { return kind_ == Kind::kNone; }
  Status add(const Feeds& feeds, const std::vector<Datum>& before, const std::vector<Datum>& after);
  std::optional<TaskMetrics> result() const;

 private:
  enum class Kind { kNone, kAccuracy, kTokens } kind_ = Kind::kNone;
  Status add_labels(const Array& before, const Array& after);
  Status add_tokens(const Array& tokens, const Array& before, const Array& after);

  std::size_t output_ = 0;
  std::string token_input_;
  std::string label_name_;
  std::vector<std::int64_t> labels_;
  std::vector<std::int64_t> next_tokens_;  // explicit targets [N, T]
  std::int64_t seen_ = 0, count_ = 0, vocabulary_ = 0;
  bool beyond_ = false;            // a token has no score: the output is no distribution over tokens (hidden states)
  double before_ = 0, after_ = 0;  // right answers
  double loss_before_ = 0, loss_after_ = 0;  // summed cross-entropy
};

}  // namespace onnxfold
