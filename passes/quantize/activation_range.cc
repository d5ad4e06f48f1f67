#include "passes/quantize/activation_range.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "analysis/calibrate/row_view.h"
#include "analysis/calibrate/statistics.h"
#include "exec/executor.h"

namespace onnxfold {
namespace {

constexpr std::size_t kBins = 2048;

Result<std::unique_ptr<Executor>> tapping(const Model& model, const std::vector<std::string>& values) {
  ExecutorOptions options;
  options.taps = values;
  return Executor::create(model, std::move(options));
}

void widen(Histogram& histogram, std::span<const float> numbers) {
  for (const float number : numbers) {
    const auto x = static_cast<double>(number);
    if (!std::isfinite(x)) {
      histogram.finite = false;
      continue;
    }
    histogram.low = std::min(histogram.low, x);
    histogram.high = std::max(histogram.high, x);
  }
  histogram.total += static_cast<std::int64_t>(numbers.size());
}

void count(Histogram& histogram, std::span<const float> numbers) {
  const double width = (histogram.high - histogram.low) / static_cast<double>(kBins);
  for (const float number : numbers) {
    const auto x = static_cast<double>(number);
    if (!std::isfinite(x)) continue;
    const double at = width > 0 ? (x - histogram.low) / width : 0;
    ++histogram.counts[std::min(kBins - 1, static_cast<std::size_t>(at))];
  }
}

// All numbers but those of padded positions, one after the other.
Result<RowView> counted_rows(const Datum& datum, const RowMask& mask) {
  if (datum.array.rank() > 0) return RowView::of(datum, mask);
  Datum row = datum;
  row.array = datum.array.reshaped({1});
  return RowView::of(row, mask);
}

ActivationRange percentile_range(const Histogram& h, double percentile) {
  const double tail = (1 - percentile / 100) / 2 * static_cast<double>(h.total);
  const double width = (h.high - h.low) / static_cast<double>(h.counts.size());
  ActivationRange range{h.low, h.high};
  double seen = 0;
  for (std::size_t bin = 0; bin < h.counts.size(); ++bin) {
    seen += static_cast<double>(h.counts[bin]);
    if (seen > tail) {
      range.low = std::min(0.0, h.low + width * static_cast<double>(bin));
      break;
    }
  }
  seen = 0;
  for (std::size_t bin = h.counts.size(); bin-- > 0;) {
    seen += static_cast<double>(h.counts[bin]);
    if (seen > tail) {
      range.high = std::max(0.0, h.low + width * static_cast<double>(bin + 1));
      break;
    }
  }
  return range;
}

// Sum of the errors to the power of 2 or 3, of values spread evenly inside their bin: the mean over one step where
// nothing is clipped, else the distance to the end.
double total_error(const Histogram& h, const ActivationRange& range, int power) {
  const double step = (range.high - range.low) / 255;
  const double rounding = power == 2 ? step * step / 12 : step * step * step / 32;  // the mean over one step
  double error = 0;
  for (std::size_t bin = 0; bin < h.counts.size(); ++bin) {
    if (h.counts[bin] == 0) continue;
    const double x = h.centre(bin), beyond = std::max({0.0, range.low - x, x - range.high});
    const double clipping = power == 2 ? beyond * beyond : beyond * beyond * beyond;
    error += static_cast<double>(h.counts[bin]) * (beyond > 0 ? clipping : rounding);
  }
  return error;
}

ActivationRange least_error_range(const Histogram& h, int power) {
  constexpr int kSteps = 24;
  ActivationRange best{h.low, h.high};
  double least = total_error(h, best, power);
  for (int i = 0; i < kSteps; ++i) {
    for (int j = 0; j < kSteps; ++j) {
      const ActivationRange tried{h.low * (1 - static_cast<double>(i) / kSteps),
                                  h.high * (1 - static_cast<double>(j) / kSteps)};
      if (tried.high <= tried.low) continue;
      const double error = total_error(h, tried, power);
      if (error < least) {
        least = error;
        best = tried;
      }
    }
  }
  return best;
}

// KL(P || Q) where Q is P cut to `bins` bins (what is beyond goes to the last) and rounded to `levels` levels.
double divergence(const std::vector<double>& magnitudes, std::size_t bins, std::size_t levels) {
  std::vector<double> p(magnitudes.begin(), magnitudes.begin() + static_cast<std::ptrdiff_t>(bins));
  for (std::size_t i = bins; i < magnitudes.size(); ++i) p[bins - 1] += magnitudes[i];
  double total_p = 0, total_q = 0;
  std::vector<double> q(bins);
  for (std::size_t level = 0; level < levels; ++level) {
    const std::size_t first = level * bins / levels, last = (level + 1) * bins / levels;
    double sum = 0;
    std::size_t filled = 0;
    for (std::size_t i = first; i < last; ++i) {
      sum += magnitudes[i];
      filled += magnitudes[i] > 0 ? 1 : 0;
    }
    for (std::size_t i = first; i < last && filled > 0; ++i) {
      q[i] = magnitudes[i] > 0 ? sum / static_cast<double>(filled) : 0;
    }
  }
  for (std::size_t i = 0; i < bins; ++i) {
    total_p += p[i];
    total_q += q[i];
  }
  if (total_p == 0 || total_q == 0) return 0;
  double sum = 0;
  for (std::size_t i = 0; i < bins; ++i) {
    if (p[i] > 0) sum += p[i] / total_p * std::log(p[i] / total_p / std::max(q[i] / total_q, 1e-9));
  }
  return sum;
}

ActivationRange entropy_range(const Histogram& h) {
  const double most = std::max(-h.low, h.high);
  std::vector<double> magnitudes(kBins);
  for (std::size_t bin = 0; bin < h.counts.size(); ++bin) {
    const double at = most > 0 ? std::abs(h.centre(bin)) / most * static_cast<double>(kBins) : 0;
    magnitudes[std::min(kBins - 1, static_cast<std::size_t>(at))] += static_cast<double>(h.counts[bin]);
  }
  // Zeros are exact in any range; where Relu or padding made most of the numbers 0 they would outvote the others, and
  // cutting nearly all of these would cost nothing.
  magnitudes[0] = magnitudes[1];
  const std::size_t levels = h.low < 0 ? 128 : 256;
  std::size_t best = kBins;
  double least = divergence(magnitudes, kBins, levels);
  for (std::size_t bins = levels; bins < kBins; bins += 16) {
    const double found = divergence(magnitudes, bins, levels);
    if (found < least) {
      least = found;
      best = bins;
    }
  }
  const double limit = most * static_cast<double>(best) / static_cast<double>(kBins);
  return {std::max(h.low, -limit), std::min(h.high, limit)};
}

}  // namespace

Result<std::map<std::string, Histogram>> collect_histograms(const Model& model, const Dataset& data,
                                                            const std::vector<std::string>& values) {
  std::map<std::string, Histogram> found;
  OF_ASSIGN(const auto executor, tapping(model, values));
  for (const bool counting : {false, true}) {
    for (const Feeds& feeds : data.batches) {
      const RowMask mask = row_mask(model, feeds);
      const Executor::TapSink sink = [&](const Value& value, const Datum& datum) -> Status {
        if (!datum.is_array() || datum.array.storage() != Storage::kFloat || datum.array.size() == 0) return {};
        Histogram& histogram = found[value.name()];
        OF_ASSIGN(const RowView rows, counted_rows(datum, mask));
        const std::span<const float> numbers(rows.floats(), static_cast<std::size_t>(rows.rows() * rows.cols()));
        if (counting) {
          histogram.counts.resize(kBins);
          count(histogram, numbers);
        } else {
          widen(histogram, numbers);
        }
        return {};
      };
      const auto run = executor->run(feeds, sink);
      if (!run) return fail(run.error());
    }
  }
  return found;
}

ActivationRange choose_range(const Histogram& histogram, RangeMethod method, double percentile) {
  if (histogram.high <= histogram.low) return {histogram.low, histogram.high};
  switch (method) {
    case RangeMethod::kPercentile:
      return percentile_range(histogram, percentile);
    case RangeMethod::kEntropy:
      return entropy_range(histogram);
    case RangeMethod::kMse:
      return least_error_range(histogram, 2);
    case RangeMethod::kCubed:
      return least_error_range(histogram, 3);
    case RangeMethod::kMinMax:
      break;
  }
  return {histogram.low, histogram.high};
}

Uint8Grid uint8_grid(const ActivationRange& range, int top) {
  Uint8Grid grid;
  const double width = range.high - range.low;
  if (!(width > 0)) return grid;
  grid.scale = static_cast<float>(std::max(width / top, 1e-30));
  grid.zero = static_cast<std::uint8_t>(
      std::clamp(std::round(-range.low / static_cast<double>(grid.scale)), 0.0, static_cast<double>(top)));
  return grid;
}

}  // namespace onnxfold
