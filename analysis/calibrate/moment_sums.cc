#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "analysis/calibrate/moment_sums.cc"
#include <hwy/foreach_target.h>
// foreach_target first
#include <hwy/highway.h>

#include <cmath>

#include "analysis/calibrate/moment_sums.h"

HWY_BEFORE_NAMESPACE();
namespace onnxfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using MD = hn::CappedTag<double, 8>;
using MV = hn::Vec<MD>;

HWY_INLINE MV wide(const double* from) { return hn::LoadU(MD(), from); }
HWY_INLINE MV wide(const float* from) { return hn::PromoteTo(MD(), hn::LoadU(hn::Rebind<float, MD>(), from)); }

// No fused operations: the same bits on every CPU, and as the loop for the last columns.
template <typename T>
void add_lanes(const T* x, std::int64_t rows, std::int64_t stride, std::int64_t at, const MomentSums& to) {
  const MD d;
  MV sum = hn::LoadU(d, to.sum + at), sum_abs = hn::LoadU(d, to.sum_abs + at);
  MV max_abs = hn::LoadU(d, to.max_abs + at), squares = hn::LoadU(d, to.sum_squares + at);
  for (std::int64_t row = 0; row < rows; ++row) {
    const MV value = wide(x + row * stride + at), size = hn::Abs(value);
    sum = hn::Add(sum, value);
    sum_abs = hn::Add(sum_abs, size);
    max_abs = hn::IfThenElse(hn::Lt(max_abs, size), size, max_abs);
    squares = hn::Add(squares, hn::Mul(value, value));
  }
  hn::StoreU(sum, d, to.sum + at);
  hn::StoreU(sum_abs, d, to.sum_abs + at);
  hn::StoreU(max_abs, d, to.max_abs + at);
  hn::StoreU(squares, d, to.sum_squares + at);
}

template <typename T>
void add_all(const T* x, std::int64_t rows, std::int64_t cols, std::int64_t stride, const MomentSums& to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(MD()));
  std::int64_t at = 0;
  for (; at + lanes <= cols; at += lanes) add_lanes(x, rows, stride, at, to);
  for (; at < cols; ++at) {
    for (std::int64_t row = 0; row < rows; ++row) {
      const double value = static_cast<double>(x[row * stride + at]), size = std::abs(value);
      const double square = value * value;
      to.sum[at] += value;
      to.sum_abs[at] += size;
      to.max_abs[at] = to.max_abs[at] < size ? size : to.max_abs[at];
      to.sum_squares[at] += square;
    }
  }
}

void add_floats(const float* x, std::int64_t rows, std::int64_t cols, std::int64_t stride, const MomentSums& to) {
  add_all(x, rows, cols, stride, to);
}

void add_doubles(const double* x, std::int64_t rows, std::int64_t cols, std::int64_t stride, const MomentSums& to) {
  add_all(x, rows, cols, stride, to);
}

}  // namespace onnxfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace onnxfold {

HWY_EXPORT(add_floats);
HWY_EXPORT(add_doubles);

void add_moments(const float* x, std::int64_t rows, std::int64_t cols, std::int64_t stride, const MomentSums& to) {
  HWY_DYNAMIC_DISPATCH(add_floats)(x, rows, cols, stride, to);
}
void add_moments(const double* x, std::int64_t rows, std::int64_t cols, std::int64_t stride, const MomentSums& to) {
  HWY_DYNAMIC_DISPATCH(add_doubles)(x, rows, cols, stride, to);
}

}  // namespace onnxfold
#endif
