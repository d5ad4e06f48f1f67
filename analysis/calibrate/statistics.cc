#include "analysis/calibrate/statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/calibrate/derived_inputs.h"
#include "exec/gemm.h"

namespace onnxfold {
namespace {

Result<std::unique_ptr<Executor>> tapping_executor(const Model& model, const std::vector<std::string>& values) {
  for (const std::string& name : values) {
    if (model.graph().find(name) == nullptr) {
      return fail(Code::kInvalidArgument, fmt::format("statistics: the model has no value '{}'", name));
    }
  }
  ExecutorOptions options;
  options.taps = values;
  return Executor::create(model, options);
}

bool masks(const RowMask& mask, const Array& array, int axis) {
  return !mask.keep.empty() && axis == array.rank() - 1 && array.rank() >= 3 && mask.dims.size() == 2 &&
         array.dim(0) == mask.dims[0] && array.dim(1) == mask.dims[1];
}

}  // namespace

RowMask row_mask(const Model& model, const Feeds& feeds) {
  for (const Value* input : model.graph().inputs()) {
    const auto fed = feeds.find(input->name());
    if (role_of(*input) != InputRole::kMask || fed == feeds.end() || !fed->second.is_array()) continue;
    if (fed->second.array.rank() != 2) continue;
    const auto numbers = to_doubles(fed->second.array);
    if (!numbers || std::none_of(numbers->begin(), numbers->end(), [](double x) { return x == 0; })) continue;
    RowMask mask{fed->second.array.dims(), std::vector<char>(numbers->size())};
    std::transform(numbers->begin(), numbers->end(), mask.keep.begin(), [](double x) { return x != 0; });
    return mask;
  }
  return {};
}

Result<Matrix> rows_of(const Datum& datum, const RowMask& mask, int channel_axis) {
  if (!datum.is_array() || datum.array.rank() == 0) {
    return fail(Code::kInvalidArgument, "statistics need an array of at least one axis");
  }
  const Array& array = datum.array;
  const int axis = channel_axis < 0 ? channel_axis + array.rank() : channel_axis;
  if (axis < 0 || axis >= array.rank()) return fail(Code::kInvalidArgument, "statistics: no such channel axis");
  OF_ASSIGN(std::vector<double> numbers, to_doubles(array));
  const std::int64_t channels = array.dim(axis);
  std::int64_t inner = 1;
  for (int i = axis + 1; i < array.rank(); ++i) inner *= array.dim(i);
  const std::int64_t rows = channels == 0 ? 0 : array.size() / channels;
  if (inner == 1 && !masks(mask, array, axis)) return Matrix(rows, channels, std::move(numbers));
  const std::int64_t per_position = inner == 1 && rows > 0 ? rows / static_cast<std::int64_t>(mask.keep.size()) : 1;
  Matrix result(0, channels);
  result.data.reserve(numbers.size());
  for (std::int64_t row = 0; row < rows; ++row) {
    if (inner == 1 && mask.keep[static_cast<std::size_t>(row / per_position)] == 0) continue;
    const std::int64_t start = row / inner * inner * channels + row % inner;
    for (std::int64_t c = 0; c < channels; ++c) {
      result.data.push_back(numbers[static_cast<std::size_t>(start + c * inner)]);
    }
    ++result.rows;
  }
  return result;
}

Status for_each_batch(const Model& model, const Dataset& data, const std::vector<std::string>& values,
                      const BatchVisitor& visit) {
  OF_ASSIGN(const auto executor, tapping_executor(model, values));
  for (std::size_t batch = 0; batch < data.batches.size(); ++batch) {
    OF_ASSIGN(const RunResult run, executor->run(data.batches[batch]));
    OF_TRY(visit(batch, run.taps, row_mask(model, data.batches[batch])));
  }
  return {};
}

Status for_each_batch(const Model& first, const std::vector<std::string>& first_values, const Model& second,
                      const std::vector<std::string>& second_values, const Dataset& data, const PairVisitor& visit) {
  OF_ASSIGN(const auto one, tapping_executor(first, first_values));
  OF_ASSIGN(const auto two, tapping_executor(second, second_values));
  for (std::size_t batch = 0; batch < data.batches.size(); ++batch) {
    OF_ASSIGN(const RunResult a, one->run(data.batches[batch]));
    OF_ASSIGN(const RunResult b, two->run(data.batches[batch]));
    OF_TRY(visit(batch, a.taps, b.taps, row_mask(first, data.batches[batch])));
  }
  return {};
}

void Moments::add(const Matrix& matrix) {
  const auto channels = static_cast<std::size_t>(matrix.cols);
  for (auto* vector : {&sum, &sum_abs, &max_abs, &sum_squares}) vector->resize(channels);
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    const double* x = matrix.data.data() + row * matrix.cols;
    for (std::size_t c = 0; c < channels; ++c) {
      sum[c] += x[c];
      sum_abs[c] += std::abs(x[c]);
      max_abs[c] = std::max(max_abs[c], std::abs(x[c]));
      sum_squares[c] += x[c] * x[c];
    }
  }
  rows += matrix.rows;
}

std::vector<double> Moments::mean() const {
  std::vector<double> result = sum;
  for (double& x : result) x /= static_cast<double>(std::max<std::int64_t>(rows, 1));
  return result;
}

Matrix gram_with_ones(const ValueStatistics& statistics) {
  const std::int64_t n = statistics.gram.rows;
  Matrix wider(n + 1, n + 1);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) wider.at(i, j) = statistics.gram.at(i, j);
    wider.at(i, n) = wider.at(n, i) = statistics.moments.sum[static_cast<std::size_t>(i)];
  }
  wider.at(n, n) = static_cast<double>(statistics.moments.rows);
  return wider;
}

void add_gram(Matrix& gram, const Matrix& x, const Matrix& y) {
  if (gram.empty()) gram = Matrix(x.cols, y.cols);
  gemm(x.cols, y.cols, x.rows, 1.0, x.data.data(), x.cols, true, y.data.data(), y.cols, false, 1.0, gram.data.data(),
       y.cols);
}

Result<std::map<std::string, ValueStatistics>> collect_statistics(const Model& model, const Dataset& data,
                                                                  const std::vector<std::string>& values,
                                                                  bool with_gram) {
  std::map<std::string, ValueStatistics> statistics;
  OF_TRY(for_each_batch(model, data, values, [&](std::size_t, const Taps& taps, const RowMask& mask) -> Status {
    for (const std::string& name : values) {
      OF_ASSIGN(const Matrix rows, rows_of(taps.at(name), mask));
      ValueStatistics& entry = statistics[name];
      entry.moments.add(rows);
      if (with_gram) add_gram(entry.gram, rows, rows);
    }
    return {};
  }));
  return statistics;
}

}  // namespace onnxfold
