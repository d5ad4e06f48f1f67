// Second moments of long float matrices at the speed of float products: X'X and X'Y, rows added chunk by chunk.
//
// Products of a chunk of rows are float32 (oneDNN), sums of chunks are double, in the order they are given: same bits
// at any thread count. statistics.h has the same in double throughout, for small things.
#pragma once

#include <vector>

#include "analysis/algebra/matrix.h"
#include "analysis/calibrate/statistics.h"

namespace onnxfold {

// Row-major, in float.
struct FloatRows {
  std::int64_t rows = 0, cols = 0;
  std::vector<float> data;

  FloatRows() = default;
  FloatRows(std::int64_t row_count, std::int64_t col_count)
      : rows(row_count), cols(col_count), data(static_cast<std::size_t>(row_count * col_count)) {}
  float* row(std::int64_t i) { return data.data() + i * cols; }
  const float* row(std::int64_t i) const { return data.data() + i * cols; }
};

// Rows of an array whose last axis holds the channels, without those that the mask leaves out (see rows_of). Errors:
// invalid_argument (no array of numbers, rank 0).
Result<FloatRows> float_rows_of(const Datum& datum, const RowMask& mask);
// How many rows that makes; 0 for what is no array.
std::int64_t count_rows(const Datum& datum, const RowMask& mask);
// Row i of `rows` stays where keep(i), counting from 0.
template <typename Keep>
FloatRows chosen_rows(const FloatRows& rows, Keep keep) {
  FloatRows out(0, rows.cols);
  for (std::int64_t i = 0; i < rows.rows; ++i) {
    if (!keep(i)) continue;
    out.data.insert(out.data.end(), rows.row(i), rows.row(i) + rows.cols);
    ++out.rows;
  }
  return out;
}

// gram += X'X (both triangles) and cross += X'Y. Empty ones are made. REQUIRES equal row counts.
void add_float_gram(Matrix& gram, const FloatRows& x);
void add_float_cross(Matrix& cross, const FloatRows& x, const FloatRows& y);

}  // namespace onnxfold
