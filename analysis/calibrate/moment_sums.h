// The loops of Moments, vectorized for the CPU that runs them. Internal to calibrate.
#pragma once

#include <cstdint>

namespace onnxfold {

// Of every column of x [rows, cols], `stride` elements from row to row: adds its sum, its sum of magnitudes and its sum
// of squares to what is there, and raises max_abs to its largest magnitude. In double, row by row; NaN is no maximum.
struct MomentSums {
  double* sum;
  double* sum_abs;
  double* max_abs;
  double* sum_squares;
};
void add_moments(const float* x, std::int64_t rows, std::int64_t cols, std::int64_t stride, const MomentSums& to);
void add_moments(const double* x, std::int64_t rows, std::int64_t cols, std::int64_t stride, const MomentSums& to);

}  // namespace onnxfold
