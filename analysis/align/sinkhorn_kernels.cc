#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "analysis/align/sinkhorn_kernels.cc"
#include <hwy/foreach_target.h>
// foreach_target first
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "analysis/align/sinkhorn_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace onnxfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

double dot(const double* a, const double* b, std::int64_t n) {
  const hn::ScalableTag<double> d;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  std::int64_t i = 0;
  for (; i + 4 * step <= n; i += 4 * step) {
    s0 = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), s0);
    s1 = hn::MulAdd(hn::LoadU(d, a + i + step), hn::LoadU(d, b + i + step), s1);
    s2 = hn::MulAdd(hn::LoadU(d, a + i + 2 * step), hn::LoadU(d, b + i + 2 * step), s2);
    s3 = hn::MulAdd(hn::LoadU(d, a + i + 3 * step), hn::LoadU(d, b + i + 3 * step), s3);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void axpy(double factor, const double* row, double* sum, std::int64_t n) {
  const hn::ScalableTag<double> d;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  const auto f = hn::Set(d, factor);
  std::int64_t i = 0;
  for (; i + step <= n; i += step) {
    hn::StoreU(hn::MulAdd(f, hn::LoadU(d, row + i), hn::LoadU(d, sum + i)), d, sum + i);
  }
  for (; i < n; ++i) sum[i] += factor * row[i];
}

void exp_costs(const double* cost, double lambda, double* out, std::int64_t n) {
  const hn::ScalableTag<double> d;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  const auto divisor = hn::Set(d, -lambda);
  std::int64_t i = 0;
  for (; i + step <= n; i += step) {
    hn::StoreU(hn::Exp(d, hn::Div(hn::LoadU(d, cost + i), divisor)), d, out + i);
  }
  for (; i < n; ++i) {
    const hn::CappedTag<double, 1> one;
    hn::StoreU(hn::Exp(one, hn::Set(one, cost[i] / -lambda)), one, out + i);
  }
}

}  // namespace onnxfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace onnxfold {

HWY_EXPORT(dot);
HWY_EXPORT(axpy);
HWY_EXPORT(exp_costs);

double dot_product(const double* a, const double* b, std::int64_t n) { return HWY_DYNAMIC_DISPATCH(dot)(a, b, n); }
void add_scaled(double factor, const double* row, double* sum, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(axpy)(factor, row, sum, n);
}
void exp_of_costs(const double* cost, double lambda, double* out, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(exp_costs)(cost, lambda, out, n);
}

}  // namespace onnxfold
#endif
