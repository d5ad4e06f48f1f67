#include "analysis/compare/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/calibrate/labels.h"

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

}  // namespace

TaskMeter::TaskMeter(const Model& model, const Dataset& data) {
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
    if (tensor.rank() == 2 && tensor.dims()[0] >= samples && output_of_rank(model, 3))
      next_tokens_ = std::move(*numbers);
  }
  if (kind_ == Kind::kAccuracy) return;
  const auto logits = output_of_rank(model, 3);
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
    return;
  }
}

Status TaskMeter::add(const Feeds& feeds, const std::vector<Datum>& before, const std::vector<Datum>& after) {
  if (none() || !before[output_].is_array() || !after[output_].is_array()) return {};
  const Array& a = before[output_].array;
  const Array& b = after[output_].array;
  if (a.dims() != b.dims()) return {};
  if (kind_ == Kind::kAccuracy) return add_labels(a, b);
  const auto tokens = feeds.find(token_input_);
  return tokens == feeds.end() ? Status() : add_tokens(tokens->second.array, a, b);
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

Status TaskMeter::add_tokens(const Array& tokens, const Array& before, const Array& after) {
  if (before.rank() != 3 || before.dim(0) != tokens.dim(0) || before.dim(1) != tokens.dim(1)) return {};
  OF_ASSIGN(const std::vector<std::int64_t> ids, to_int64s(tokens));
  OF_ASSIGN(const std::vector<double> a, to_doubles(before));
  OF_ASSIGN(const std::vector<double> b, to_doubles(after));
  const std::int64_t length = before.dim(1);
  vocabulary_ = before.dim(2);
  const bool given = !next_tokens_.empty();
  for (std::int64_t row = 0; row < before.dim(0); ++row, ++seen_) {
    for (std::int64_t t = 0; t + (given ? 0 : 1) < length; ++t) {
      const std::int64_t at = seen_ * length + t;
      if (given && at >= static_cast<std::int64_t>(next_tokens_.size())) return {};
      const std::int64_t target =
          given ? next_tokens_[static_cast<std::size_t>(at)] : ids[static_cast<std::size_t>(row * length + t + 1)];
      beyond_ = beyond_ || (!given && target >= vocabulary_);
      if (target < 0 || target >= vocabulary_) continue;  // -100 and the like: not counted
      const std::int64_t line = (row * length + t) * vocabulary_;
      loss_before_ += cross_entropy(a.data() + line, vocabulary_, target);
      loss_after_ += cross_entropy(b.data() + line, vocabulary_, target);
      ++count_;
    }
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
