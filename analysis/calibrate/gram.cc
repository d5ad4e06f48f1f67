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

}  // namespace

std::int64_t count_rows(const Datum& datum, const RowMask& mask) {
  if (!datum.is_array() || datum.array.rank() == 0 || datum.array.dim(-1) == 0) return 0;
  const std::int64_t rows = datum.array.size() / datum.array.dim(-1);
  if (!masks_rows(mask, datum.array)) return rows;
  const auto kept = std::count_if(mask.keep.begin(), mask.keep.end(), [](char keep) { return keep != 0; });
  return rows / static_cast<std::int64_t>(mask.keep.size()) * kept;
}

Result<FloatRows> float_rows_of(const Datum& datum, const RowMask& mask) {
  if (!datum.is_array() || datum.array.rank() == 0) {
    return fail(Code::kInvalidArgument, "statistics need an array of at least one axis");
  }
  const Array& array = datum.array;
  if (array.storage() != Storage::kFloat) {
    OF_ASSIGN(const Matrix rows, rows_of(datum, mask));
    FloatRows out(rows.rows, rows.cols);
    std::transform(rows.data.begin(), rows.data.end(), out.data.begin(),
                   [](double x) { return static_cast<float>(x); });
    return out;
  }
  const std::int64_t cols = array.dim(-1), rows = cols == 0 ? 0 : array.size() / cols;
  const float* data = array.data<float>();
  const bool masked = masks_rows(mask, array);
  FloatRows out(0, cols);
  if (!masked) {
    out.rows = rows;
    out.data.assign(data, data + array.size());
    return out;
  }
  const std::int64_t per_position = rows / std::max<std::int64_t>(1, static_cast<std::int64_t>(mask.keep.size()));
  for (std::int64_t row = 0; row < rows; ++row) {
    if (mask.keep[static_cast<std::size_t>(row / per_position)] == 0) continue;
    out.data.insert(out.data.end(), data + row * cols, data + (row + 1) * cols);
    ++out.rows;
  }
  return out;
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
