#include "analysis/calibrate/gram.h"

#include <algorithm>

#include "exec/gemm.h"
#include "exec/parallel.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kChunk = 1024;  // rows whose products are summed in float
constexpr std::int64_t kStripe = 384;  // columns computed together

void add_to(Matrix& sums, const std::vector<float>& part, std::int64_t rows, std::int64_t first, std::int64_t cols) {
  parallel_for(rows, std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(cols, 1)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   double* to = sums.data.data() + i * sums.cols + first;
                   const float* from = part.data() + i * cols;
                   for (std::int64_t j = 0; j < cols; ++j) to[j] += static_cast<double>(from[j]);
                 }
               });
}

// [batch, length, ..., channels], or [batch * length, channels] as some exporters flatten it.
bool masks_rows(const RowMask& mask, const Array& array) {
  if (mask.keep.empty() || mask.dims.size() != 2) return false;
  if (array.rank() == 2) return array.dim(0) == static_cast<std::int64_t>(mask.keep.size());
  return array.rank() >= 3 && array.dim(0) == mask.dims[0] && array.dim(1) == mask.dims[1];
}

void shape_like(const FloatView& rows, const std::vector<std::int64_t>& chosen, FloatRows& out) {
  out.rows = static_cast<std::int64_t>(chosen.size());
  out.cols = rows.cols();
  out.data.resize(static_cast<std::size_t>(out.rows * out.cols));
}

template <typename Each>
void for_rows(const FloatRows& rows, Each each) {
  parallel_for(rows.rows, std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(rows.cols, 1)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) each(i);
               });
}

}  // namespace

Result<FloatView> FloatView::of(const Datum& datum) {
  if (!datum.is_array() || datum.array.rank() == 0) {
    return fail(Code::kInvalidArgument, "statistics need an array of at least one axis");
  }
  FloatView view;
  view.cols_ = datum.array.dim(-1);
  view.rows_ = view.cols_ == 0 ? 0 : datum.array.size() / view.cols_;
  if (datum.array.storage() == Storage::kFloat) {
    view.owner_ = datum;
    view.data_ = view.owner_.array.data<float>();
    return view;
  }
  OF_ASSIGN(const Matrix rows, rows_of(datum, RowMask()));
  view.converted_ = std::make_shared<const std::vector<float>>(rows.data.begin(), rows.data.end());
  view.data_ = view.converted_->data();
  return view;
}

std::vector<std::int64_t> kept_rows(const Datum& datum, const RowMask& mask) {
  std::vector<std::int64_t> kept;
  if (!datum.is_array() || datum.array.rank() == 0 || datum.array.dim(-1) == 0) return kept;
  const std::int64_t rows = datum.array.size() / datum.array.dim(-1);
  const bool masked = masks_rows(mask, datum.array);
  const std::int64_t per_position =
      masked ? rows / std::max<std::int64_t>(1, static_cast<std::int64_t>(mask.keep.size())) : 1;
  for (std::int64_t row = 0; row < rows; ++row) {
    if (!masked || mask.keep[static_cast<std::size_t>(row / per_position)] != 0) kept.push_back(row);
  }
  return kept;
}

void gather_rows(const FloatView& rows, const std::vector<std::int64_t>& chosen, FloatRows& out) {
  shape_like(rows, chosen, out);
  for_rows(out,
           [&](std::int64_t i) { std::copy_n(rows.row(chosen[static_cast<std::size_t>(i)]), out.cols, out.row(i)); });
}

void gather_differences(const FloatView& rows, const FloatView& less, const std::vector<std::int64_t>& chosen,
                        float factor, FloatRows& out) {
  shape_like(rows, chosen, out);
  for_rows(out, [&](std::int64_t i) {
    const float* x = rows.row(chosen[static_cast<std::size_t>(i)]);
    const float* y = less.row(chosen[static_cast<std::size_t>(i)]);
    float* to = out.row(i);
    for (std::int64_t j = 0; j < out.cols; ++j) to[j] = (x[j] - y[j]) * factor;
  });
}

void add_float_gram(Matrix& gram, const FloatRows& x) {
  if (gram.empty()) gram = Matrix(x.cols, x.cols);
  std::vector<float> part;
  for (std::int64_t first = 0; first < x.cols; first += kStripe) {
    // Rows of the stripe that lie on or above the diagonal; the rest is its mirror.
    const std::int64_t cols = std::min(kStripe, x.cols - first), rows = first + cols;
    part.resize(static_cast<std::size_t>(rows * cols));
    for (std::int64_t row = 0; row < x.rows; row += kChunk) {
      const std::int64_t count = std::min(kChunk, x.rows - row);
      gemm(rows, cols, count, 1.0F, x.row(row), x.cols, true, x.row(row) + first, x.cols, false, 0.0F, part.data(),
           cols);
      add_to(gram, part, rows, first, cols);
    }
  }
  for (std::int64_t i = 0; i < x.cols; ++i) {
    for (std::int64_t j = 0; j < i; ++j) gram.at(i, j) = gram.at(j, i);
  }
}

void add_float_cross(Matrix& cross, const FloatRows& x, const FloatRows& y) {
  if (cross.empty()) cross = Matrix(x.cols, y.cols);
  std::vector<float> part;
  for (std::int64_t first = 0; first < y.cols; first += kStripe) {
    const std::int64_t cols = std::min(kStripe, y.cols - first);
    part.resize(static_cast<std::size_t>(x.cols * cols));
    for (std::int64_t row = 0; row < x.rows; row += kChunk) {
      const std::int64_t count = std::min(kChunk, x.rows - row);
      gemm(x.cols, cols, count, 1.0F, x.row(row), x.cols, true, y.row(row) + first, y.cols, false, 0.0F, part.data(),
           cols);
      add_to(cross, part, x.cols, first, cols);
    }
  }
}

}  // namespace onnxfold
