// Layer and RMS normalization of rows: statistics in double, one pass over each row from cache.
#pragma once

#include <cmath>

#include "exec/kernel.h"
#include "exec/parallel.h"

namespace onnxfold {

// Scale and bias of row r start at scale + r * scale_step; null when absent. `mean` and `inverse`, one per row, may be
// null.
template <typename T>
struct RowNorm {
  std::int64_t rows, width;
  const T* scale;
  std::int64_t scale_step;
  const T* bias;
  std::int64_t bias_step;
  double epsilon;
  bool centre;  // false: RMS
  T* mean;
  T* inverse;
};

template <typename T>
double row_sum(const T* x, std::int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  return sum;
}

template <typename T>
double row_squares(const T* x, std::int64_t n, double mean) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(x[i]) - mean;
    sum += d * d;
  }
  return sum;
}

template <typename T>
void normalize_row(const RowNorm<T>& norm, std::int64_t r, const T* x, T* y) {
  const std::int64_t n = norm.width;
  const double mean = norm.centre ? row_sum(x, n) / static_cast<double>(n) : 0;
  const double inverse = 1 / std::sqrt(row_squares(x, n, mean) / static_cast<double>(n) + norm.epsilon);
  if (norm.mean) norm.mean[r] = static_cast<T>(mean);
  if (norm.inverse) norm.inverse[r] = static_cast<T>(inverse);
  const T* scale = norm.scale ? norm.scale + r * norm.scale_step : nullptr;
  const T* bias = norm.bias ? norm.bias + r * norm.bias_step : nullptr;
  if (scale && bias) {
    for (std::int64_t i = 0; i < n; ++i) {
      y[i] = static_cast<T>((static_cast<double>(x[i]) - mean) * inverse * static_cast<double>(scale[i]) +
                            static_cast<double>(bias[i]));
    }
    return;
  }
  for (std::int64_t i = 0; i < n; ++i) {
    double value = (static_cast<double>(x[i]) - mean) * inverse;
    if (scale) value *= static_cast<double>(scale[i]);
    if (bias) value += static_cast<double>(bias[i]);
    y[i] = static_cast<T>(value);
  }
}

template <typename T>
void normalize_rows(const RowNorm<T>& norm, const T* x, T* y) {
  const std::int64_t grain = std::max<std::int64_t>(1, kElementGrain / 2 / std::max<std::int64_t>(1, norm.width));
  parallel_for(norm.rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) normalize_row(norm, r, x + r * norm.width, y + r * norm.width);
  });
}

}  // namespace onnxfold
