#include "analysis/calibrate/statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/calibrate/derived_inputs.h"
#include "analysis/calibrate/moment_sums.h"
#include "exec/gemm.h"
#include "exec/side_by_side.h"

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
  OF_ASSIGN(const RowView view, RowView::of(datum, mask, channel_axis));
  return view.matrix();
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
    RunResult a, b;
    OF_TRY(side_by_side(2, [&](std::size_t which) -> Status {
      OF_ASSIGN((which == 0 ? a : b), (which == 0 ? one : two)->run(data.batches[batch]));
      return {};
    }));
    OF_TRY(visit(batch, a.taps, b.taps, row_mask(first, data.batches[batch])));
  }
  return {};
}

void Moments::add(const RowView& view) {
  for (auto* vector : {&sum, &sum_abs, &max_abs, &sum_squares}) vector->resize(static_cast<std::size_t>(view.cols()));
  const MomentSums to{sum.data(), sum_abs.data(), max_abs.data(), sum_squares.data()};
  view.visit([&](const auto* data) { add_moments(data, view.rows(), view.cols(), view.stride(), to); });
  rows += view.rows();
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

void add_gram(Matrix& gram, const RowView& x, const RowView& y) {
  if (gram.empty()) gram = Matrix(x.cols(), y.cols());
  const auto add = [&](const auto* first, std::int64_t first_stride, const auto* second, std::int64_t second_stride) {
    gemm(x.cols(), y.cols(), x.rows(), 1.0, first, first_stride, true, second, second_stride, false, 1.0,
         gram.data.data(), y.cols());
  };
  if (x.floats() != nullptr && y.floats() != nullptr) return add(x.floats(), x.stride(), y.floats(), y.stride());
  if (x.doubles() != nullptr && y.doubles() != nullptr) return add(x.doubles(), x.stride(), y.doubles(), y.stride());
  const Matrix first = x.matrix(), second = y.matrix();
  add(first.data.data(), first.cols, second.data.data(), second.cols);
}

void add_gram(Matrix& gram, const Matrix& x, const Matrix& y) { add_gram(gram, RowView::of(x), RowView::of(y)); }

Result<std::map<std::string, ValueStatistics>> collect_statistics(const Model& model, const Dataset& data,
                                                                  const std::vector<std::string>& values,
                                                                  bool with_gram) {
  std::map<std::string, ValueStatistics> statistics;
  OF_TRY(for_each_batch(model, data, values, [&](std::size_t, const Taps& taps, const RowMask& mask) -> Status {
    for (const std::string& name : values) {
      OF_ASSIGN(const RowView rows, RowView::of(taps.at(name), mask));
      ValueStatistics& entry = statistics[name];
      entry.moments.add(rows);
      if (with_gram) add_gram(entry.gram, rows, rows);
    }
    return {};
  }));
  return statistics;
}

}  // namespace onnxfold
