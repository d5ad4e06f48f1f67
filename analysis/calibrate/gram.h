// Second moments of long float matrices at the speed of float products: X'X and X'Y, rows added chunk by chunk.
//
// Products of a chunk of rows are float32 (oneDNN), sums of chunks are double, in the order they are given: same bits
// at any thread count. statistics.h has the same in double throughout, for small things.
#pragma once

#include <memory>
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

// Rows of an array whose last axis holds the channels, where they lie (other types than float are converted).
class FloatView {
 public:
  FloatView() = default;
  // Errors: invalid_argument (no array of numbers, rank 0).
  static Result<FloatView> of(const Datum& datum);

  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  const float* row(std::int64_t i) const { return data_ + i * cols_; }

 private:
  Datum owner_;
  std::shared_ptr<const std::vector<float>> converted_;
  const float* data_ = nullptr;
  std::int64_t rows_ = 0, cols_ = 0;
};

// The rows (see FloatView) that the mask does not leave out (see rows_of); none for what is no array.
std::vector<std::int64_t> kept_rows(const Datum& datum, const RowMask& mask);
// out[i] = rows[chosen[i]], or (rows[chosen[i]] - less[chosen[i]]) * factor. `out` keeps its memory from call to call.
void gather_rows(const FloatView& rows, const std::vector<std::int64_t>& chosen, FloatRows& out);
void gather_differences(const FloatView& rows, const FloatView& less, const std::vector<std::int64_t>& chosen,
                        float factor, FloatRows& out);
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
