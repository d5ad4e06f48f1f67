#include "analysis/compare/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/calibrate/labels.h"
#include "analysis/compare/padding.h"

namespace onnxfold {
namespace {

std::optional<std::size_t> output_of_rank(const Model& model, int rank) {
  const auto& outputs = model.graph().outputs();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i]->rank() == rank && is_float(outputs[i]->dtype())) return i;
  }
  return {};
}

std::int64_t total(const std::vector<std::int64_t>& sizes) {
  std::int64_t sum = 0;
  for (const std::int64_t size : sizes) sum += size;
  return sum;
}

// -log softmax(row)[target], in nats.
double cross_entropy(const double* row, std::int64_t width, std::int64_t target) {
  const double largest = *std::max_element(row, row + width);
  double sum = 0;
  for (std::int64_t i = 0; i < width; ++i) sum += std::exp(row[i] - largest);
  return std::log(sum) + largest - row[target];
}

// Are the targets the tokens themselves, but for those that are none?
bool repeats(const std::vector<std::int64_t>& targets, const std::string& token_input, const Dataset& data) {
  std::size_t at = 0;
  bool any = false;
  for (const Feeds& feeds : data.batches) {
    const auto fed = feeds.find(token_input);
    const auto ids = fed == feeds.end() ? Result<std::vector<std::int64_t>>(std::vector<std::int64_t>())
                                        : to_int64s(fed->second.array);
    if (!ids || at + ids->size() > targets.size()) return false;
    for (const std::int64_t id : *ids) {
      const std::int64_t target = targets[at++];
      if (target >= 0 && target != id) return false;
      any = any || target >= 0;
    }
  }
  return any;
}

}  // namespace

TaskMeter::TaskMeter(const Model& model, const Dataset& data) : model_(&model) {
  const std::int64_t samples = total(data.batch_sizes);
  for (const auto& [name, tensor] : data.targets) {
    if (!is_integer(tensor.dtype())) continue;
    auto numbers = to_int64s(tensor);
    if (!numbers) continue;
    const bool one_each = tensor.rank() == 1 || (tensor.rank() == 2 && tensor.dims()[1] == 1);
    const bool first = labels_.empty() || named_like_labels(name);
    if (one_each && first && tensor.size() >= samples && output_of_rank(model, 2)) {
      kind_ = Kind::kAccuracy;
      output_ = *output_of_rank(model, 2);
      labels_ = std::move(*numbers);
      label_name_ = name;
      if (named_like_labels(name)) return;
      continue;
    }
    if (tensor.rank() == 2 && tensor.dims()[0] >= samples && output_of_rank(model, 3)) {
      given_ = std::move(*numbers);
      given_length_ = tensor.dims()[1];
    }
  }
  if (kind_ == Kind::kNone) find_tokens(data);
}

void TaskMeter::find_tokens(const Dataset& data) {
  const auto logits = output_of_rank(*model_, 3);
  if (!logits || data.batches.empty() || data.origin.starts_with("generated")) return;
  for (const auto& [name, datum] : data.batches.front()) {
    const bool token_like = datum.is_array() && datum.array.rank() == 2 && is_integer(datum.array.dtype());
    if (!token_like || name.find("mask") != std::string::npos || name.find("type") != std::string::npos ||
        name.find("position") != std::string::npos) {
      continue;
    }
    kind_ = Kind::kTokens;
    output_ = *logits;
    token_input_ = name;
    shifted_ = !repeats(given_, token_input_, data);
    return;
  }
}

Status TaskMeter::add(const Feeds& feeds, const std::vector<Datum>& before, const std::vector<Datum>& after) {
  if (none() || !before[output_].is_array() || !after[output_].is_array()) return {};
  const Array& a = before[output_].array;
  const Array& b = after[output_].array;
  if (a.dims() != b.dims()) return {};
  if (kind_ == Kind::kAccuracy) return add_labels(a, b);
  return feeds.contains(token_input_) ? add_tokens(feeds, a, b) : Status();
}

Status TaskMeter::add_labels(const Array& before, const Array& after) {
  OF_ASSIGN(const std::vector<double> a, to_doubles(before));
  OF_ASSIGN(const std::vector<double> b, to_doubles(after));
  const std::int64_t classes = before.dim(-1);
  const auto best = [classes](const std::vector<double>& rows, std::int64_t i) {
    const auto begin = rows.begin() + i * classes;
    return std::max_element(begin, begin + classes) - begin;
  };
  for (std::int64_t i = 0; i < before.dim(0); ++i, ++seen_) {
    if (seen_ >= static_cast<std::int64_t>(labels_.size())) return {};
    const std::int64_t label = labels_[static_cast<std::size_t>(seen_)];
    if (label < 0 && named_like_labels(label_name_)) continue;  // none
    if (label >= classes && named_like_labels(label_name_)) {
      return fail(Code::kInvalidArgument, fmt::format("'{}' is {} for sample {}: the model has {} classes, 0 to {}",
                                                      label_name_, label, seen_, classes, classes - 1));
    }
    before_ += best(a, i) == label ? 1 : 0;
    after_ += best(b, i) == label ? 1 : 0;
    if (label >= 0 && label < classes) {
      loss_before_ += cross_entropy(a.data() + i * classes, classes, label);
      loss_after_ += cross_entropy(b.data() + i * classes, classes, label);
    }
    ++count_;
  }
  return {};
}

Result<std::vector<std::int64_t>> TaskMeter::targets_of(const Feeds& feeds, const Array& tokens) const {
  OF_ASSIGN(const std::vector<std::int64_t> ids, to_int64s(tokens));
  const std::int64_t rows = tokens.dim(0), length = tokens.dim(1);
  const RowMask padding = output_padding(*model_, feeds);
  const bool padded = !padding.keep.empty() && padding.dims == tokens.dims();
  const std::int64_t step = given_.empty() || !shifted_ ? 1 : 0;  // from a position to the one that holds its target
  std::vector<std::int64_t> targets(ids.size(), -1);
  for (std::int64_t i = 0; i < rows * length; ++i) {
    if (i % length + step >= length) continue;
    if (padded &&
        (padding.keep[static_cast<std::size_t>(i)] == 0 || padding.keep[static_cast<std::size_t>(i + step)] == 0))
      continue;
    const std::int64_t at = seen_ * length + i + step;
    if (given_.empty()) {
      targets[static_cast<std::size_t>(i)] = ids[static_cast<std::size_t>(i + step)];
    } else if (given_length_ == length && at < static_cast<std::int64_t>(given_.size())) {
      targets[static_cast<std::size_t>(i)] = given_[static_cast<std::size_t>(at)];
    }
  }
  return targets;
}

Status TaskMeter::add_tokens(const Feeds& feeds, const Array& before, const Array& after) {
  const Array& tokens = feeds.at(token_input_).array;
  OF_ASSIGN(const std::vector<std::int64_t> targets, targets_of(feeds, tokens));
  seen_ += tokens.dim(0);
  if (before.rank() != 3 || before.dim(0) != tokens.dim(0) || before.dim(1) != tokens.dim(1)) return {};
  OF_ASSIGN(const std::vector<double> a, to_doubles(before));
  OF_ASSIGN(const std::vector<double> b, to_doubles(after));
  vocabulary_ = before.dim(2);
  for (std::size_t i = 0; i < targets.size(); ++i) {
    beyond_ = beyond_ || (given_.empty() && targets[i] >= vocabulary_);
    if (targets[i] < 0 || targets[i] >= vocabulary_) continue;
    const std::size_t line = i * static_cast<std::size_t>(vocabulary_);
    loss_before_ += cross_entropy(a.data() + line, vocabulary_, targets[i]);
    loss_after_ += cross_entropy(b.data() + line, vocabulary_, targets[i]);
    ++count_;
  }
  return {};
}

std::optional<TaskMetrics> TaskMeter::result() const {
  if (count_ == 0 || beyond_) return {};
  TaskMetrics metrics;
  metrics.samples = count_;
  const auto count = static_cast<double>(count_);
  metrics.loss_before = loss_before_ / count;
  metrics.loss_after = loss_after_ / count;
  if (kind_ == Kind::kAccuracy) {
    metrics.kind = "accuracy";
    metrics.before = before_ / count;
    metrics.after = after_ / count;
  } else if (vocabulary_ == 256) {
    metrics.kind = "bits per byte";
    metrics.before = metrics.loss_before / M_LN2;
    metrics.after = metrics.loss_after / M_LN2;
  } else {
    metrics.kind = "perplexity";
    metrics.before = std::exp(metrics.loss_before);
    metrics.after = std::exp(metrics.loss_after);
  }
  return metrics;
}

}  // namespace onnxfold
