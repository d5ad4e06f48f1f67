#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "exec/vector_math.cc"
#include <hwy/foreach_target.h>
// foreach_target first
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <limits>
#include <numbers>

#include "exec/vector_math.h"

HWY_BEFORE_NAMESPACE();
namespace onnxfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F = hn::CappedTag<float, 16>;
using V = hn::Vec<F>;
constexpr std::int64_t kMost = 16;  // lanes

// Highway's takes no NaN and nothing beyond 104.
HWY_INLINE V exp_of(V x) {
  const F f;
  const V top = hn::Set(f, 88.72283935546875F);  // e^x of the next float is infinite
  const V y = hn::Exp(f, hn::Min(x, top));
  const V large = hn::IfThenElse(hn::Gt(x, top), hn::Set(f, std::numeric_limits<float>::infinity()), y);
  return hn::IfThenElse(hn::Eq(x, x), large, x);
}

HWY_INLINE V sigmoid_of(V x) {
  const F f;
  const V one = hn::Set(f, 1.0F), power = exp_of(hn::Neg(hn::Abs(x)));
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(f)), power, one), hn::Add(one, power));
}

// Below kErfSplit x + x P(x^2), beyond 1 - e^-(x + x Q(x)): P fits erf(x)/x - 1, Q fits -ln(erfc(x))/x - 1, each with
// the least largest error that its degree allows (weighted least squares until the errors are level).
constexpr float kErfSplit = 0.921875F;

HWY_INLINE V erf_of(V x) {
  const F f;
  const V size = hn::Abs(x), square = hn::Mul(x, x);
  V p = hn::Set(f, -5.990980425849557e-4F);
  for (const float c : {4.993210081e-3F, -2.6766641065e-2F, 1.12818174064e-1F, -3.76124948263e-1F, 1.28379151225e-1F}) {
    p = hn::MulAdd(p, square, hn::Set(f, c));
  }
  const V small = hn::MulAdd(p, x, x);
  const V t = hn::Min(size, hn::Set(f, 4.0F));  // there it is 1
  V q = hn::Set(f, -2.13470135e-4F);
  for (const float c : {3.210796975e-3F, -2.2876929492e-2F, 1.05242021382e-1F, 6.3573294878e-1F, 1.28510162234e-1F}) {
    q = hn::MulAdd(q, t, hn::Set(f, c));
  }
  const V large = hn::Sub(hn::Set(f, 1.0F), hn::Exp(f, hn::Neg(hn::MulAdd(q, t, t))));
  const V y = hn::IfThenElse(hn::Lt(size, hn::Set(f, kErfSplit)), small, hn::CopySign(large, x));
  return hn::IfThenElse(hn::Eq(x, x), y, x);
}

// out = op(in), the last few elements through a buffer so that they are computed as all others.
template <typename Op>
HWY_INLINE void map(const float* in, float* out, std::int64_t count, float filler, Op op) {
  const F f;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(f));
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(op(hn::LoadU(f, in + i)), f, out + i);
  if (i == count) return;
  float rest[kMost];
  std::fill_n(rest, kMost, filler);
  std::copy_n(in + i, count - i, rest);
  hn::StoreU(op(hn::LoadU(f, rest)), f, rest);
  std::copy_n(rest, count - i, out + i);
}

void exp_all(const float* in, float* out, std::int64_t count) {
  map(in, out, count, 0, [](V x) HWY_ATTR { return exp_of(x); });
}

void sigmoid_all(const float* in, float* out, std::int64_t count) {
  map(in, out, count, 0, [](V x) HWY_ATTR { return sigmoid_of(x); });
}

void erf_all(const float* in, float* out, std::int64_t count) {
  map(in, out, count, 0, [](V x) HWY_ATTR { return erf_of(x); });
}

void gelu_all(const float* in, float* out, std::int64_t count) {
  map(in, out, count, 0, [](V x) HWY_ATTR {
    const F f;
    const V share = hn::Add(hn::Set(f, 1.0F), erf_of(hn::Div(x, hn::Set(f, std::numbers::sqrt2_v<float>))));
    return hn::Mul(hn::Mul(hn::Set(f, 0.5F), x), share);
  });
}

void softmax(const float* in, float* out, std::int64_t count) {
  constexpr std::int64_t kSums = 16;  // of elements that far apart, so that they can be added side by side
  float tops[kSums];
  std::fill_n(tops, kSums, in[0]);
  std::int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    for (std::int64_t j = 0; j < kSums; ++j) tops[j] = tops[j] < in[i + j] ? in[i + j] : tops[j];
  }
  for (std::int64_t j = 0; i + j < count; ++j) tops[j] = tops[j] < in[i + j] ? in[i + j] : tops[j];
  const V shift = hn::Set(F(), *std::max_element(tops, tops + kSums));
  map(in, out, count, in[0], [shift](V x) HWY_ATTR { return exp_of(hn::Sub(x, shift)); });
  double sums[kSums] = {};
  for (i = 0; i + kSums <= count; i += kSums) {
    for (std::int64_t j = 0; j < kSums; ++j) sums[j] += static_cast<double>(out[i + j]);
  }
  for (std::int64_t j = 0; i + j < count; ++j) sums[j] += static_cast<double>(out[i + j]);
  double total = 0;
  for (const double sum : sums) total += sum;
  const double scale = 1.0 / total;
  for (i = 0; i < count; ++i) out[i] = static_cast<float>(static_cast<double>(out[i]) * scale);
}

}  // namespace onnxfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace onnxfold {

HWY_EXPORT(exp_all);
HWY_EXPORT(sigmoid_all);
HWY_EXPORT(erf_all);
HWY_EXPORT(gelu_all);
HWY_EXPORT(softmax);

void exp_floats(const float* in, float* out, std::int64_t count) { HWY_DYNAMIC_DISPATCH(exp_all)(in, out, count); }
void sigmoid_floats(const float* in, float* out, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(sigmoid_all)(in, out, count);
}
void erf_floats(const float* in, float* out, std::int64_t count) { HWY_DYNAMIC_DISPATCH(erf_all)(in, out, count); }
void gelu_floats(const float* in, float* out, std::int64_t count) { HWY_DYNAMIC_DISPATCH(gelu_all)(in, out, count); }
void softmax_row(const float* in, float* out, std::int64_t count) { HWY_DYNAMIC_DISPATCH(softmax)(in, out, count); }

}  // namespace onnxfold
#endif
