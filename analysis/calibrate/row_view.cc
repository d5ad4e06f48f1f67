#include "analysis/calibrate/row_view.h"

#include <algorithm>

#include "analysis/calibrate/statistics.h"

namespace onnxfold {
namespace {

bool masks(const RowMask& mask, const Array& array, int axis) {
  return !mask.keep.empty() && axis == array.rank() - 1 && array.rank() >= 3 && mask.dims.size() == 2 &&
         array.dim(0) == mask.dims[0] && array.dim(1) == mask.dims[1];
}

// Rows [rows, channels] that lie with `inner` elements between channels, without those the mask leaves out.
template <typename T>
std::vector<T> gathered(const T* from, std::int64_t rows, std::int64_t channels, std::int64_t inner,
                        const std::vector<char>& keep) {
  const std::int64_t per_position =
      keep.empty() ? 1 : std::max<std::int64_t>(1, rows / static_cast<std::int64_t>(keep.size()));
  std::vector<T> result;
  result.reserve(static_cast<std::size_t>(rows * channels));
  for (std::int64_t row = 0; row < rows; ++row) {
    if (!keep.empty() && keep[static_cast<std::size_t>(row / per_position)] == 0) continue;
    const T* start = from + row / inner * inner * channels + row % inner;
    for (std::int64_t c = 0; c < channels; ++c) result.push_back(start[c * inner]);
  }
  return result;
}

template <typename T>
void copy_columns(const RowView& from, const T* data, const std::vector<std::int64_t>& chosen, std::vector<T>& to) {
  to.resize(static_cast<std::size_t>(from.rows()) * chosen.size());
  auto next = to.begin();
  for (std::int64_t row = 0; row < from.rows(); ++row) {
    for (const std::int64_t column : chosen) *next++ = data[row * from.stride() + column];
  }
}

bool neighbours(const std::vector<std::int64_t>& columns) {
  for (std::size_t i = 1; i < columns.size(); ++i) {
    if (columns[i] != columns[i - 1] + 1) return false;
  }
  return true;
}

}  // namespace

template <typename T>
RowView RowView::holding(std::vector<T> data, std::int64_t rows, std::int64_t cols) {
  const auto kept = std::make_shared<const std::vector<T>>(std::move(data));
  RowView view;
  view.rows_ = rows;
  view.cols_ = view.stride_ = cols;
  if constexpr (std::is_same_v<T, float>) {
    view.floats_ = kept->data();
  } else {
    view.doubles_ = kept->data();
  }
  view.owner_ = kept;
  return view;
}

Result<RowView> RowView::of(const Datum& datum, const RowMask& mask, int channel_axis) {
  if (!datum.is_array() || datum.array.rank() == 0) {
    return fail(Code::kInvalidArgument, "statistics need an array of at least one axis");
  }
  const Array& array = datum.array;
  const int axis = channel_axis < 0 ? channel_axis + array.rank() : channel_axis;
  if (axis < 0 || axis >= array.rank()) return fail(Code::kInvalidArgument, "statistics: no such channel axis");
  const std::int64_t channels = array.dim(axis);
  std::int64_t inner = 1;
  for (int i = axis + 1; i < array.rank(); ++i) inner *= array.dim(i);
  const std::int64_t rows = channels == 0 ? 0 : array.size() / channels;
  const std::vector<char> keep = masks(mask, array, axis) ? mask.keep : std::vector<char>();
  const bool as_it_lies = inner == 1 && keep.empty();
  const auto copy = [&](const auto* from) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(from)>>;
    std::vector<T> data = gathered(from, rows, channels, inner, keep);
    const std::int64_t kept = channels == 0 ? 0 : static_cast<std::int64_t>(data.size()) / channels;
    return holding(std::move(data), kept, channels);
  };
  if (array.storage() != Storage::kFloat) {
    OF_ASSIGN(std::vector<double> numbers, to_doubles(array));
    if (!as_it_lies) return copy(numbers.data());
    return holding(std::move(numbers), rows, channels);
  }
  if (!as_it_lies) return copy(array.data<float>());
  RowView view;
  view.rows_ = rows;
  view.cols_ = view.stride_ = channels;
  view.floats_ = array.data<float>();
  view.owner_ = std::make_shared<const Array>(array);
  return view;
}

RowView RowView::of(const Matrix& matrix) {
  RowView view;
  view.rows_ = matrix.rows;
  view.cols_ = view.stride_ = matrix.cols;
  view.doubles_ = matrix.data.data();
  return view;
}

RowView RowView::beside(const RowView& left, const RowView& right) {
  const std::int64_t cols = left.cols_ + right.cols_;
  const auto joined = [&](const auto* x, std::int64_t x_stride, const auto* y, std::int64_t y_stride) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(x)>>;
    std::vector<T> data(static_cast<std::size_t>(left.rows_ * cols));
    for (std::int64_t row = 0; row < left.rows_; ++row) {
      const auto next = std::copy_n(x + row * x_stride, left.cols_, data.begin() + row * cols);
      std::copy_n(y + row * y_stride, right.cols_, next);
    }
    return holding(std::move(data), left.rows_, cols);
  };
  if (left.floats_ != nullptr && right.floats_ != nullptr) {
    return joined(left.floats_, left.stride_, right.floats_, right.stride_);
  }
  const Matrix x = left.matrix(), y = right.matrix();
  return joined(x.data.data(), x.cols, y.data.data(), y.cols);
}

RowView RowView::columns(const std::vector<std::int64_t>& chosen) const {
  if (chosen.empty()) return *this;
  RowView view = *this;
  view.cols_ = static_cast<std::int64_t>(chosen.size());
  if (neighbours(chosen)) {
    if (floats_ != nullptr) view.floats_ += chosen.front();
    if (doubles_ != nullptr) view.doubles_ += chosen.front();
    return view;
  }
  visit([&](const auto* data) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(data)>>;
    std::vector<T> copy;
    copy_columns(*this, data, chosen, copy);
    view = holding(std::move(copy), rows_, view.cols_);
  });
  return view;
}

RowView RowView::every(std::int64_t step, std::int64_t first) const {
  RowView view = *this;
  view.rows_ = first < rows_ ? (rows_ - first + step - 1) / step : 0;
  view.stride_ = step * stride_;
  if (floats_ != nullptr) view.floats_ += first * stride_;
  if (doubles_ != nullptr) view.doubles_ += first * stride_;
  return view;
}

Matrix RowView::matrix() const {
  Matrix result(rows_, cols_);
  visit([&](const auto* data) {
    for (std::int64_t row = 0; row < rows_; ++row) {
      const auto* from = data + row * stride_;
      std::transform(from, from + cols_, result.data.begin() + row * cols_, [](auto x) { return double{x}; });
    }
  });
  return result;
}

}  // namespace onnxfold
