#include "analysis/heal/linear_rows.h"

#include <algorithm>
#include <cmath>

namespace onnxfold {
namespace {

// Masks apply to [batch, length, channels]; when one of the values was flattened, none is masked, so that rows agree.
bool all_maskable(const Taps& student, const Taps& teacher, const RefitJob& job) {
  const auto deep = [](const Datum& datum) { return datum.is_array() && datum.array.rank() >= 3; };
  for (const std::string& name : student_values(job)) {
    if (!deep(student.at(name))) return false;
  }
  return deep(teacher.at(job.target.teacher));
}

// The sums whose norm is `wanted`: per row, mean and deviation of the student's present sum are kept.
Result<Matrix> before_norm(const Matrix& wanted, const Matrix& sums, const Norm& norm) {
  std::vector<double> gain(static_cast<std::size_t>(wanted.cols), 1), bias(gain.size(), 0);
  if (norm.gain != nullptr && norm.gain->constant() != nullptr) {
    OF_ASSIGN(gain, to_doubles(*norm.gain->constant()));
  }
  if (norm.bias != nullptr && norm.bias->constant() != nullptr) {
    OF_ASSIGN(bias, to_doubles(*norm.bias->constant()));
  }
  Matrix result = wanted;
  if (gain.size() != static_cast<std::size_t>(wanted.cols) || bias.size() != gain.size()) return result;
  for (std::int64_t row = 0; row < wanted.rows; ++row) {
    double mean = 0, squares = 0;
    for (std::int64_t c = 0; c < wanted.cols; ++c) mean += sums.at(row, c);
    mean = norm.kind == Norm::Kind::kLayer ? mean / static_cast<double>(wanted.cols) : 0;
    for (std::int64_t c = 0; c < wanted.cols; ++c) squares += std::pow(sums.at(row, c) - mean, 2);
    const double deviation = std::sqrt(squares / static_cast<double>(wanted.cols) + norm.epsilon);
    for (std::int64_t c = 0; c < wanted.cols; ++c) {
      const auto i = static_cast<std::size_t>(c);
      // A channel that the gain silences may be anything: it stays as it is.
      result.at(row, c) =
          std::abs(gain[i]) < 1e-6 ? sums.at(row, c) : mean + deviation * (wanted.at(row, c) - bias[i]) / gain[i];
    }
  }
  return result;
}

}  // namespace

std::vector<std::string> student_values(const RefitJob& job) {
  std::vector<std::string> names = {job.linear.input->name()};
  if (!job.target.student_rest.empty()) names.push_back(job.target.student_rest);
  if (job.target.through) names.push_back(job.target.student_sum);
  return names;
}

Result<std::optional<SplitRegression>> refit_rows(const RefitJob& job, const Recording& student,
                                                  const Recording& teacher, const Dataset& data,
                                                  const std::vector<RowMask>& masks) {
  SplitRegression split;
  std::int64_t all = 0, first = 0;
  for (const std::int64_t size : data.batch_sizes) all += size;
  for (std::size_t i = 0; i < student.batches.size(); ++i) {
    const RowMask mask = all_maskable(student.batches[i], teacher.batches[i], job) ? masks[i] : RowMask();
    OF_ASSIGN(Matrix x, rows_of(student.batches[i].at(job.linear.input->name()), mask));
    OF_ASSIGN(Matrix y, rows_of(teacher.batches[i].at(job.target.teacher), mask));
    if (x.cols != job.linear.in || y.cols != job.linear.out || x.rows != y.rows)
      return std::optional<SplitRegression>();
    if (job.target.through) {
      OF_ASSIGN(const Matrix sums, rows_of(student.batches[i].at(job.target.student_sum), mask));
      if (sums.rows != y.rows || sums.cols != y.cols) return std::optional<SplitRegression>();
      OF_ASSIGN(y, before_norm(y, sums, *job.target.through));
    }
    if (!job.target.student_rest.empty()) {
      OF_ASSIGN(const Matrix rest, rows_of(student.batches[i].at(job.target.student_rest), mask));
      if (rest.rows != y.rows || rest.cols != y.cols) return std::optional<SplitRegression>();
      y = sum(y, rest, -1);
    }
    for (std::int64_t c = 0; c < y.cols && !job.target.scale.empty(); ++c) {
      const double scale = job.target.scale[static_cast<std::size_t>(c)];
      for (std::int64_t row = 0; row < y.rows; ++row) y.at(row, c) = scale == 0 ? 0 : y.at(row, c) / scale;
    }
    const std::vector<char> held = held_out_rows(x.rows, data.batch_sizes[i], first, all);
    first += data.batch_sizes[i];
    split.add(job.linear.bias != nullptr ? with_ones(x) : x, y, held);
  }
  return std::optional<SplitRegression>(std::move(split));
}

Result<Matrix> stacked_weight(const Linear& linear) {
  OF_ASSIGN(Matrix weight, weight_matrix(linear));
  if (linear.bias == nullptr) return weight;
  OF_ASSIGN(const std::vector<double> bias, bias_vector(linear));
  return with_bias_row(weight, bias);
}

Status put_stacked(Graph& graph, const Linear& linear, const Matrix& stacked) {
  if (linear.bias == nullptr) {
    OF_TRY(replace_linear(graph, linear, stacked, nullptr));
    return {};
  }
  const auto split = stacked.data.end() - stacked.cols;
  const Matrix weight(stacked.rows - 1, stacked.cols, std::vector<double>(stacked.data.begin(), split));
  const std::vector<double> bias(split, stacked.data.end());
  OF_TRY(replace_linear(graph, linear, weight, &bias));
  return {};
}

}  // namespace onnxfold
