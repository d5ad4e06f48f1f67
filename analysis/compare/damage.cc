#include "analysis/compare/damage.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "analysis/calibrate/refit.h"
#include "analysis/compare/accumulate.h"
#include "analysis/compare/padding.h"
#include "analysis/compare/task.h"

namespace onnxfold {
namespace {

// Does an output hold scores of alternatives? Hidden states have rows as well, but their softmax means nothing.
bool holds_scores(const Value& output) {
  if (!is_float(output.dtype())) return false;
  for (const std::string_view word : {"logit", "score", "prob", "softmax"}) {
    if (output.name().find(word) != std::string::npos) return true;
  }
  const Node* producer = output.producer();
  return producer != nullptr && (producer->is("Softmax") || producer->is("LogSoftmax"));
}

std::vector<Datum> in_order(const Model& model, const Taps& taps) {
  std::vector<Datum> data;
  for (const Value* output : model.graph().outputs()) {
    const auto found = taps.find(output->name());
    data.push_back(found == taps.end() ? Datum() : found->second);
  }
  return data;
}

// The rows whose flag is set.
Result<Datum> array_of(const Matrix& matrix, const std::vector<char>& flags) {
  std::vector<double> numbers;
  std::int64_t rows = 0;
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    if (flags[static_cast<std::size_t>(row)] == 0) continue;
    ++rows;
    for (std::int64_t c = 0; c < matrix.cols; ++c) numbers.push_back(matrix.at(row, c));
  }
  OF_ASSIGN(const Tensor tensor, from_doubles(DType::kFloat64, {rows, matrix.cols}, numbers));
  OF_ASSIGN(Array array, to_array(tensor, Precision::kFloat64));
  return Datum(std::move(array));
}

}  // namespace

Result<DamageMeter> DamageMeter::create(const Model& original, const Dataset& data, std::optional<Kind> force,
                                        const Recording* known, Rows rows) {
  DamageMeter meter;
  meter.model_ = original.clone();
  meter.data_ = &data;
  meter.rows_ = rows;
  for (const Feeds& feeds : data.batches) meter.masks_.push_back(output_padding(original, feeds));
  if (known != nullptr) {
    for (const Taps& batch : known->batches) {
      Taps& kept = meter.outputs_.batches.emplace_back();
      for (const std::string& name : meter.output_names()) kept[name] = batch.at(name);
    }
  } else {
    OF_ASSIGN(meter.outputs_, record(original, data, meter.output_names()));
  }
  OF_ASSIGN(const auto task, meter.task_of(meter.outputs_));
  const auto& outputs = meter.model_->graph().outputs();
  const bool scores =
      std::any_of(outputs.begin(), outputs.end(), [](const Value* value) { return holds_scores(*value); });
  meter.kind_ = task ? Kind::kLoss : scores ? Kind::kKl : Kind::kError;
  if (force == Kind::kLoss && !task) {
    return fail(Code::kInvalidArgument, "a loss needs labels or tokens to predict in the data");
  }
  if (force && (*force != Kind::kKl || scores || task)) meter.kind_ = *force;
  if (task) meter.task_kind_ = task->kind;
  OF_ASSIGN(meter.base_, meter.measure(meter.outputs_));
  return meter;
}

std::vector<std::string> DamageMeter::output_names() const {
  std::vector<std::string> names;
  for (const Value* output : model_->graph().outputs()) names.push_back(output->name());
  return names;
}

std::string_view DamageMeter::kind_name() const {
  return kind_ == Kind::kLoss ? "loss" : kind_ == Kind::kKl ? "KL" : "error";
}

Result<std::optional<TaskMetrics>> DamageMeter::task_of(const Recording& outputs) const {
  TaskMeter task(*model_, *data_);
  if (task.none()) return std::optional<TaskMetrics>();
  for (std::size_t i = 0; i < data_->batches.size(); ++i) {
    OF_TRY(task.add(data_->batches[i], in_order(*model_, outputs_.batches[i]), in_order(*model_, outputs.batches[i])));
  }
  return task.result();
}

// Counts the rows that are to count.
Status DamageMeter::add_rows(OutputAccumulator& sums, const Datum& before, const Datum& after,
                             std::size_t batch) const {
  const RowMask& mask = masks_[batch];
  const bool rows = before.is_array() && after.is_array() && before.array.dims() == after.array.dims() &&
                    is_float(before.array.dtype()) && before.array.rank() > 1;
  if (rows_ == Rows::kAll || !rows) return sums.add(before, after, batch, mask);
  const RowMask own = covers(mask, before.array) ? mask : RowMask();
  OF_ASSIGN(const Matrix a, rows_of(before, own));
  OF_ASSIGN(const Matrix b, rows_of(after, own));
  std::vector<char> counted(static_cast<std::size_t>(a.rows), 1);
  const std::vector<std::int64_t>& sizes = data_->batch_sizes;
  const auto here = sizes.begin() + static_cast<std::ptrdiff_t>(std::min(batch, sizes.size()));
  const std::int64_t first = std::accumulate(sizes.begin(), here, std::int64_t{0});
  const std::int64_t all = std::accumulate(here, sizes.end(), first);
  const std::vector<char> samples = held_out_rows(all, all, 0, all);
  if (std::any_of(samples.begin(), samples.end(), [](char held) { return held != 0; })) {
    counted = held_out_rows(a.rows, here == sizes.end() ? 0 : *here, first, all);
  }
  OF_ASSIGN(const Datum x, array_of(a, counted));
  OF_ASSIGN(const Datum y, array_of(b, counted));
  return sums.add(x, y, batch);
}

// Of batches [begin, end).
Result<double> DamageMeter::distance(const Recording& outputs, std::size_t begin, std::size_t end) const {
  double worst = 0;
  for (const Value* output : model_->graph().outputs()) {
    if (!is_float(output->dtype()) || (kind_ == Kind::kKl && task_kind_.empty() && !holds_scores(*output))) continue;
    OutputAccumulator sums(output->name());
    bool there = begin < end;
    for (std::size_t i = begin; i < end && there; ++i) {
      const auto found = outputs.batches[i].find(output->name());
      there = found != outputs.batches[i].end();
      if (there) OF_TRY(add_rows(sums, outputs_.batches[i].at(output->name()), found->second, i));
    }
    if (!there) continue;
    const OutputMetrics metrics = sums.result();
    if (metrics.shape_or_type_differs || metrics.new_nan_or_inf) return HUGE_VAL;
    worst = std::max(worst, kind_ == Kind::kKl ? metrics.kl.value_or(0) : std::pow(10, -metrics.sqnr_db / 20));
  }
  return worst;
}

Result<Damage> DamageMeter::measure(const Recording& outputs) const {
  OF_ASSIGN(const auto task, task_of(outputs));
  Damage damage;
  if (task) damage.task = task->after;
  if (kind_ == Kind::kLoss) {
    damage.value = task ? task->loss_after : HUGE_VAL;
  } else {
    OF_ASSIGN(damage.value, distance(outputs, 0, outputs.batches.size()));
  }
  if (std::isnan(damage.value)) damage.value = HUGE_VAL;
  return damage;
}

Result<std::vector<double>> DamageMeter::by_batch(const Recording& outputs) const {
  std::vector<double> values;
  TaskMeter task(*model_, *data_);
  double sum = 0;
  std::int64_t count = 0;
  for (std::size_t i = 0; i < outputs.batches.size(); ++i) {
    if (kind_ != Kind::kLoss) {
      OF_ASSIGN(const double value, distance(outputs, i, i + 1));
      values.push_back(value);
      continue;
    }
    OF_TRY(task.add(data_->batches[i], in_order(*model_, outputs_.batches[i]), in_order(*model_, outputs.batches[i])));
    const auto so_far = task.result();
    if (!so_far || so_far->samples == count) continue;
    const double all = so_far->loss_after * static_cast<double>(so_far->samples);
    values.push_back((all - sum) / static_cast<double>(so_far->samples - count));
    sum = all;
    count = so_far->samples;
  }
  return values;
}

Result<Damage> DamageMeter::measure(const Model& changed) const {
  std::vector<std::string> names;
  for (const std::string& name : output_names()) {
    const Value* value = changed.graph().find(name);
    if (value != nullptr && value->is_graph_output()) names.push_back(name);
  }
  OF_ASSIGN(const Recording outputs, record(changed, *data_, names));
  return measure(outputs);
}

}  // namespace onnxfold
