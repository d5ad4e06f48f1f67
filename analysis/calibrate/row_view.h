// RowView: rows of channels where they lie in an array, in the array's own float type; a copy only where rows are left
// out or channels stand in front.
#pragma once

#include <memory>
#include <vector>

#include "analysis/algebra/matrix.h"
#include "exec/array.h"

namespace onnxfold {

struct RowMask;  // statistics.h

class RowView {
 public:
  RowView() = default;
  // Of the array's rows, see rows_of (statistics.h); the array is kept alive. Errors: as rows_of.
  static Result<RowView> of(const Datum& datum, const RowMask& mask, int channel_axis = -1);
  // Of a matrix, which must outlive the view.
  static RowView of(const Matrix& matrix);
  // Columns of `left`, then those of `right`. REQUIRES equal row counts.
  static RowView beside(const RowView& left, const RowView& right);

  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  std::int64_t stride() const { return stride_; }  // elements from row to row
  // One of them is null, unless the view is empty.
  const float* floats() const { return floats_; }
  const double* doubles() const { return doubles_; }

  // These columns in this order; of an empty list, all. Neighbours are not copied.
  RowView columns(const std::vector<std::int64_t>& chosen) const;
  // Rows first, first + step, ...: never copied.
  RowView every(std::int64_t step, std::int64_t first) const;
  Matrix matrix() const;  // a copy

  // fn(first element) with the element type of the view.
  template <typename F>
  void visit(F&& fn) const {
    if (floats_ != nullptr) {
      fn(floats_);
    } else if (doubles_ != nullptr) {
      fn(doubles_);
    }
  }

 private:
  template <typename T>
  static RowView holding(std::vector<T> data, std::int64_t rows, std::int64_t cols);

  std::int64_t rows_ = 0, cols_ = 0, stride_ = 0;
  const float* floats_ = nullptr;
  const double* doubles_ = nullptr;
  std::shared_ptr<const void> owner_;
};

}  // namespace onnxfold
