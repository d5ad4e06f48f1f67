// Does the model still do its job? Accuracy from labels, perplexity from next tokens.
#pragma once

#include <optional>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "analysis/compare/metrics.h"

namespace onnxfold {

// Collects what the data's targets allow, over both models' outputs, batch by batch. What has no target does not count:
// negative labels (-100, as in PyTorch), and positions that are padding by a mask input of the data (padding.h), nor
// those whose next token is.
class TaskMeter {
 public:
  // Finds out which task the data and the model are for; none() when neither labels nor tokens say. REQUIRES that the
  // model outlives the meter. Targets [samples, length] are the token to predict at each position; where they repeat
  // the input tokens (labels as Transformers takes them), the token to predict is the next one of them.
  TaskMeter(const Model& model, const Dataset& data);
  bool none() const { return kind_ == Kind::kNone; }
  Status add(const Feeds& feeds, const std::vector<Datum>& before, const std::vector<Datum>& after);
  std::optional<TaskMetrics> result() const;

 private:
  enum class Kind { kNone, kAccuracy, kTokens } kind_ = Kind::kNone;
  Status add_labels(const Array& before, const Array& after);
  void take_targets(const Tensor& targets, std::vector<std::int64_t> numbers);
  void find_tokens(const Dataset& data);
  // The token to predict at each position of the batch; negative: none.
  Result<std::vector<std::int64_t>> targets_of(const Feeds& feeds, const Array& tokens) const;
  Status add_tokens(const Feeds& feeds, const Array& before, const Array& after);

  const Model* model_;
  std::size_t output_ = 0;
  std::string token_input_;
  std::string label_name_;
  std::vector<std::int64_t> labels_;
  std::vector<std::int64_t> given_;  // explicit targets [N, given_length_]
  std::int64_t given_length_ = 0;
  bool shifted_ = true;  // given_ holds the next token at each position, not the one there
  std::int64_t seen_ = 0, count_ = 0, vocabulary_ = 0;
  bool beyond_ = false;            // a token has no score: the output is no distribution over tokens (hidden states)
  double before_ = 0, after_ = 0;  // right answers
  double loss_before_ = 0, loss_after_ = 0;  // summed cross-entropy
};

}  // namespace onnxfold
