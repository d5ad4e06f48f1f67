// What numbers the values of a model take on data, and which range 8 bits should cover.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "ir/model.h"

namespace onnxfold {

enum class RangeMethod {
  kMinMax,      // nothing is clipped
  kPercentile,  // the share of values that the percentile names
  kEntropy,     // least Kullback-Leibler divergence of the magnitudes (TensorRT's calibration)
  kMse,         // least squared error of rounding and clipping
  kCubed,       // least cubed error: clipping counts for more
};

// Counts over equal bins of [low, high].
struct Histogram {
  double low = 0, high = 0;
  std::vector<std::int64_t> counts;
  std::int64_t total = 0;
  bool finite = true;  // no NaN or infinity was seen

  double centre(std::size_t bin) const {
    return low + (high - low) * (static_cast<double>(bin) + 0.5) / static_cast<double>(counts.size());
  }
};

// By value name; values that are no float arrays, or that no batch computes, are left out, and so are positions that a
// mask input of the data marks as padding. Two runs over the data: for
// the range, and for the counts. Errors: those of the executor.
Result<std::map<std::string, Histogram>> collect_histograms(const Model& model, const Dataset& data,
                                                            const std::vector<std::string>& values);

struct ActivationRange {
  double low = 0, high = 0;  // low <= 0 <= high
};
// `percentile` in percent, for kPercentile. REQUIRES: histogram.total > 0.
ActivationRange choose_range(const Histogram& histogram, RangeMethod method, double percentile);

// uint8: real = scale * (code - zero), codes 0 to `top`.
struct Uint8Grid {
  float scale = 1;
  std::uint8_t zero = 0;
};
Uint8Grid uint8_grid(const ActivationRange& range, int top = 255);

}  // namespace onnxfold
