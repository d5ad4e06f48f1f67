#include "analysis/heal/linear_rows.h"

#include <algorithm>
#include <cmath>

#include "exec/gemm.h"

namespace onnxfold {
namespace {

// The sums whose norm is `wanted`: per row, mean and deviation of the student's present sum are kept.
Status before_norm(FloatRows& wanted, const FloatRows& sums, const Norm& norm) {
  const auto cols = static_cast<std::size_t>(wanted.cols);
  std::vector<double> gain(cols, 1), bias(cols, 0);
  if (norm.gain != nullptr && norm.gain->constant() != nullptr) {
    OF_ASSIGN(gain, to_doubles(*norm.gain->constant()));
  }
  if (norm.bias != nullptr && norm.bias->constant() != nullptr) {
    OF_ASSIGN(bias, to_doubles(*norm.bias->constant()));
  }
  if (gain.size() != cols || bias.size() != cols) return {};
  for (std::int64_t row = 0; row < wanted.rows; ++row) {
    const float* now = sums.row(row);
    float* to = wanted.row(row);
    double mean = 0, squares = 0;
    for (std::size_t c = 0; c < cols; ++c) mean += static_cast<double>(now[c]);
    mean = norm.kind == Norm::Kind::kLayer ? mean / static_cast<double>(cols) : 0;
    for (std::size_t c = 0; c < cols; ++c) {
      const double centred = static_cast<double>(now[c]) - mean;
      squares += centred * centred;
    }
    const double deviation = std::sqrt(squares / static_cast<double>(cols) + norm.epsilon);
    for (std::size_t c = 0; c < cols; ++c) {
      // A channel that the gain silences may be anything: it stays as it is.
      to[c] = std::abs(gain[c]) < 1e-6
                  ? now[c]
                  : static_cast<float>(mean + deviation * (static_cast<double>(to[c]) - bias[c]) / gain[c]);
    }
  }
  return {};
}

FloatRows rows_with_ones(const FloatRows& x) {
  FloatRows out(x.rows, x.cols + 1);
  for (std::int64_t row = 0; row < x.rows; ++row) {
    std::copy_n(x.row(row), x.cols, out.row(row));
    out.row(row)[x.cols] = 1;
  }
  return out;
}

Result<FloatRows> rows_without_padding(const Datum& datum, const RowMask& mask) {
  OF_ASSIGN(const FloatView view, FloatView::of(datum));
  FloatRows rows;
  gather_rows(view, kept_rows(datum, mask), rows);
  return rows;
}

double squares_of(const FloatRows& rows) {
  double total = 0;
  for (const float x : rows.data) total += static_cast<double>(x) * static_cast<double>(x);
  return total;
}

// What the Linear should make of a batch; nullopt when the rows do not correspond.
Result<std::optional<FloatRows>> targets(const RefitJob& job, const Taps& student, const Taps& teacher,
                                         const RowMask& mask, std::int64_t rows) {
  OF_ASSIGN(FloatRows y, rows_without_padding(teacher.at(job.target.teacher), mask));
  if (y.cols != job.linear.out || y.rows != rows) return std::optional<FloatRows>();
  if (job.target.through) {
    OF_ASSIGN(const FloatRows sums, rows_without_padding(student.at(job.target.student_sum), mask));
    if (sums.rows != y.rows || sums.cols != y.cols) return std::optional<FloatRows>();
    OF_TRY(before_norm(y, sums, *job.target.through));
  }
  if (!job.target.student_rest.empty()) {
    OF_ASSIGN(const FloatRows rest, rows_without_padding(student.at(job.target.student_rest), mask));
    if (rest.rows != y.rows || rest.cols != y.cols) return std::optional<FloatRows>();
    for (std::size_t i = 0; i < y.data.size(); ++i) y.data[i] -= rest.data[i];
  }
  for (std::int64_t row = 0; row < y.rows && !job.target.scale.empty(); ++row) {
    float* to = y.row(row);
    for (std::size_t c = 0; c < job.target.scale.size(); ++c) {
      const double scale = job.target.scale[c];
      to[c] = scale == 0 ? 0 : static_cast<float>(static_cast<double>(to[c]) / scale);
    }
  }
  return std::optional<FloatRows>(std::move(y));
}

void add_left_over(Regression& sums, double& energy, const FloatRows& x, FloatRows y, const std::vector<float>& prior) {
  if (x.rows == 0) return;
  energy += squares_of(y);
  gemm(x.rows, y.cols, x.cols, -1.0F, x.data.data(), x.cols, false, prior.data(), y.cols, false, 1.0F, y.data.data(),
       y.cols);
  add_float_cross(sums.cross, x, y);
  sums.target_squares += squares_of(y);
  sums.rows += x.rows;
}

}  // namespace

std::vector<std::string> student_values(const RefitJob& job) {
  std::vector<std::string> names = {job.linear.input->name()};
  if (!job.target.student_rest.empty()) names.push_back(job.target.student_rest);
  if (job.target.through) names.push_back(job.target.student_sum);
  return names;
}

bool rows_maskable(const RefitJob& job, const Taps& student, const Taps& teacher) {
  const auto deep = [](const Datum& datum) { return datum.is_array() && datum.array.rank() >= 3; };
  for (const std::string& name : student_values(job)) {
    if (!deep(student.at(name))) return false;
  }
  return deep(teacher.at(job.target.teacher));
}

Result<RefitInputs> refit_inputs(const RefitJob& job, const Recording& student, const Dataset& data,
                                 const std::vector<RowMask>& masks, bool masked) {
  RefitInputs inputs{job.linear.input->name(), job.linear.bias != nullptr, masked, {}, {}, {}, {}, {}};
  std::int64_t all = 0, first = 0;
  for (const std::int64_t size : data.batch_sizes) all += size;
  for (std::size_t i = 0; i < student.batches.size(); ++i) {
    OF_ASSIGN(FloatRows x, rows_without_padding(student.batches[i].at(inputs.value), masked ? masks[i] : RowMask()));
    if (inputs.ones) x = rows_with_ones(x);
    const std::vector<char> held = held_out_rows(x.rows, data.batch_sizes[i], first, all);
    first += data.batch_sizes[i];
    const auto is_held = [&](std::int64_t row) { return held[static_cast<std::size_t>(row)] != 0; };
    inputs.fit.push_back(chosen_rows(x, [&](std::int64_t row) { return !is_held(row); }));
    inputs.check.push_back(chosen_rows(x, is_held));
    if (inputs.fit.back().rows > 0) add_float_gram(inputs.fit_gram, inputs.fit.back());
    if (inputs.check.back().rows > 0) add_float_gram(inputs.check_gram, inputs.check.back());
    inputs.held_out.push_back(held);
  }
  return inputs;
}

Result<std::optional<LeftOver>> left_over(const RefitJob& job, const RefitInputs& inputs, const Matrix& prior,
                                          const Recording& student, const Recording& teacher,
                                          const std::vector<RowMask>& masks) {
  LeftOver sums;
  std::vector<float> weight(prior.data.size());
  std::transform(prior.data.begin(), prior.data.end(), weight.begin(), [](double x) { return static_cast<float>(x); });
  for (std::size_t i = 0; i < inputs.fit.size(); ++i) {
    const std::vector<char>& held = inputs.held_out[i];
    if (inputs.fit[i].cols != prior.rows) return std::optional<LeftOver>();
    OF_ASSIGN(const auto wanted, targets(job, student.batches[i], teacher.batches[i],
                                         inputs.masked ? masks[i] : RowMask(), static_cast<std::int64_t>(held.size())));
    if (!wanted) return std::optional<LeftOver>();
    const auto is_held = [&](std::int64_t row) { return held[static_cast<std::size_t>(row)] != 0; };
    add_left_over(sums.moments.fit, sums.fit_energy, inputs.fit[i],
                  chosen_rows(*wanted, [&](std::int64_t row) { return !is_held(row); }), weight);
    add_left_over(sums.moments.check, sums.check_energy, inputs.check[i], chosen_rows(*wanted, is_held), weight);
  }
  sums.moments.fit.gram = inputs.fit_gram;
  sums.moments.check.gram = inputs.check_gram;
  return std::optional<LeftOver>(std::move(sums));
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
