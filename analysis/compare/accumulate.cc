#include "analysis/compare/accumulate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/compare/padding.h"

namespace onnxfold {
namespace {

std::string index_text(std::int64_t flat, const Dims& dims) {
  std::vector<std::int64_t> index(dims.size());
  for (std::size_t axis = dims.size(); axis-- > 0;) {
    index[axis] = flat % std::max<std::int64_t>(1, dims[axis]);
    flat /= std::max<std::int64_t>(1, dims[axis]);
  }
  return fmt::format("[{}]", fmt::join(index, ","));
}

// Rows that are already probabilities are compared as they are.
bool is_distribution(const double* row, std::int64_t width) {
  double total = 0;
  for (std::int64_t i = 0; i < width; ++i) {
    if (row[i] < -1e-6) return false;
    total += row[i];
  }
  return std::fabs(total - 1) < 1e-3;
}

std::vector<double> distribution(const double* row, std::int64_t width, bool already) {
  std::vector<double> p(row, row + width);
  if (already) {
    for (double& x : p) x = std::max(x, 1e-12);
    return p;
  }
  const double largest = *std::max_element(p.begin(), p.end());
  double total = 0;
  for (double& x : p) total += x = std::exp(x - largest);
  for (double& x : p) x = std::max(x / total, 1e-300);
  return p;
}

}  // namespace

Status OutputAccumulator::add(const Datum& before, const Datum& after, std::size_t batch, const RowMask& padding) {
  if (before.kind != after.kind) {
    return fail(Code::kInvalidArgument,
                fmt::format("output '{}' is of another kind (array, sequence) in the second model", metrics_.output));
  }
  if (before.is_array()) return add_arrays(before.array, after.array, batch, padding);
  const std::size_t a = before.items ? before.items->size() : 0;
  const std::size_t b = after.items ? after.items->size() : 0;
  if (a != b) metrics_.shape_or_type_differs = true;
  for (std::size_t i = 0; i < std::min(a, b); ++i) OF_TRY(add((*before.items)[i], (*after.items)[i], batch));
  return {};
}

Status OutputAccumulator::add_arrays(const Array& before, const Array& after, std::size_t batch,
                                     const RowMask& padding) {
  if (before.dtype() != after.dtype() || before.dims() != after.dims()) {
    metrics_.shape_or_type_differs = true;
    metrics_.exact = false;
    metrics_.worst_element =
        fmt::format("{} against {} (batch {})", to_string(Type::tensor(before.dtype(), before.dims())),
                    to_string(Type::tensor(after.dtype(), after.dims())), batch);
    return {};
  }
  metrics_.elements += before.size();
  if (before.storage() == Storage::kString) {
    const auto* a = before.data<std::string>();
    const bool same = std::equal(a, a + before.size(), after.data<std::string>());
    metrics_.exact = metrics_.exact && same;
    metrics_.compared += before.size();
    if (!same) metrics_.max_abs = std::max(metrics_.max_abs, 1.0);
    return {};
  }
  OF_ASSIGN(const std::vector<double> a, to_doubles(before));
  OF_ASSIGN(const std::vector<double> b, to_doubles(after));
  const bool padded = covers(padding, before);
  const Batch numbers{a, b, before.dims(), padded ? padding.keep : std::vector<char>()};
  if (padded) metrics_.padding += std::count(padding.keep.begin(), padding.keep.end(), 0) * before.dim(-1);
  add_numbers(numbers, batch);
  if (is_float(before.dtype())) {
    add_cosines(numbers);
    if (before.rank() >= 2 && before.dim(-1) >= 2) add_rows(numbers);
  }
  return {};
}

void OutputAccumulator::add_numbers(const Batch& numbers, std::size_t batch) {
  const auto& [a, b, dims, keep] = numbers;
  double signal = 0;
  double noise = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const bool same = a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]));
    if (same && !std::isfinite(a[i])) continue;
    metrics_.exact = metrics_.exact && same;
    metrics_.new_nan_or_inf = metrics_.new_nan_or_inf || (std::isfinite(a[i]) && !std::isfinite(b[i]));
    if (!numbers.counts(i)) continue;
    ++metrics_.compared;
    double difference = std::fabs(a[i] - b[i]);
    if (!std::isfinite(b[i]) || !std::isfinite(a[i])) difference = std::numeric_limits<double>::infinity();
    if (difference > metrics_.max_abs || (difference > 0 && metrics_.worst_element.empty())) {
      metrics_.max_abs = std::max(metrics_.max_abs, difference);
      metrics_.worst_element = fmt::format("{}: {:.6g} against {:.6g} (batch {})",
                                           index_text(static_cast<std::int64_t>(i), dims), a[i], b[i], batch);
    }
    if (!std::isfinite(difference)) continue;
    signal += a[i] * a[i];
    noise += difference * difference;
  }
  signal_ += signal;
  noise_ += noise;
  if (noise > 0) {
    const double relative = signal > 0 ? std::sqrt(noise / signal) : std::numeric_limits<double>::infinity();
    metrics_.max_rel_l2 = std::max(metrics_.max_rel_l2, relative);
  }
  if (metrics_.new_nan_or_inf) metrics_.max_rel_l2 = std::numeric_limits<double>::infinity();
}

void OutputAccumulator::add_cosines(const Batch& numbers) {
  const auto& [a, b, dims, keep] = numbers;
  // Of one number a sample a cosine is but a sign: such a batch counts as one sample.
  const bool single = dims.empty() || static_cast<std::int64_t>(a.size()) == dims[0];
  const std::int64_t samples = single ? 1 : std::max<std::int64_t>(1, dims[0]);
  const std::size_t width = a.size() / static_cast<std::size_t>(samples);
  for (std::size_t sample = 0; sample < static_cast<std::size_t>(samples); ++sample) {
    double ab = 0;
    double aa = 0;
    double bb = 0;
    for (std::size_t i = sample * width; i < (sample + 1) * width; ++i) {
      if (!std::isfinite(a[i]) || !std::isfinite(b[i]) || !numbers.counts(i)) continue;
      ab += a[i] * b[i];
      aa += a[i] * a[i];
      bb += b[i] * b[i];
    }
    if (aa == 0 && bb == 0) continue;  // two zero vectors agree
    const double cosine = aa == 0 || bb == 0 ? 0 : ab / std::sqrt(aa * bb);
    metrics_.cosine = std::min(metrics_.cosine, cosine);
  }
}

void OutputAccumulator::add_rows(const Batch& numbers) {
  const auto& [a, b, dims, keep] = numbers;
  const std::int64_t width = dims.back();
  const auto finite = [width](const double* row) {
    return std::all_of(row, row + width, [](double x) { return std::isfinite(x); });
  };
  for (std::size_t at = 0; at + static_cast<std::size_t>(width) <= a.size(); at += static_cast<std::size_t>(width)) {
    if (!numbers.counts(at)) continue;
    const double* x = a.data() + at;
    const double* y = b.data() + at;
    ++rows_;
    const bool agree = std::max_element(x, x + width) - x == std::max_element(y, y + width) - y;
    agreeing_ += agree ? 1 : 0;
    if (!finite(x) || !finite(y)) continue;
    const bool already = is_distribution(x, width);
    const std::vector<double> p = distribution(x, width, already);
    const std::vector<double> q = distribution(y, width, already);
    double kl = 0;
    for (std::size_t i = 0; i < p.size(); ++i) kl += p[i] * std::log(p[i] / q[i]);
    kl_ += std::max(kl, 0.0);
  }
}

OutputMetrics OutputAccumulator::result() const {
  OutputMetrics metrics = metrics_;
  if (noise_ > 0) metrics.sqnr_db = 10 * std::log10(signal_ / noise_);
  if (rows_ > 0) {
    metrics.kl = kl_ / static_cast<double>(rows_);
    metrics.top1 = static_cast<double>(agreeing_) / static_cast<double>(rows_);
  }
  return metrics;
}

}  // namespace onnxfold
