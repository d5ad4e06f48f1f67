// MatMul(x, W), Gemm(x, W, c), Gather(T, i) => the same on W or T rounded to 2, 3, 4 or 8 bits in blocks.
//
// Conditions: W or T is constant (behind Transpose, Cast or Identity or not) and gets smaller (weight_target.h). Lossy.
// Round to nearest, bit-equal to ONNX Runtime's default quantizer (MLAS q4_dq.cpp); per block of values v:
//   symmetric:  m = the value of largest magnitude, with its sign;  scale = m / -2^(bits-1), rounded to its type
//   asymmetric: lo = min(v, 0), hi = max(v, 0);  scale = (hi - lo) / (2^bits - 1), rounded to its type
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "passes/quantize/rtn.cc"
#include <hwy/foreach_target.h>
// foreach_target first
#include <hwy/highway.h>

#include "passes/quantize/blockwise.h"

HWY_BEFORE_NAMESPACE();
namespace onnxfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, kLanes>;

void extremes_to_scales(const float* values, std::int64_t count, const BlockGrid& grid, float* scales, float* lows) {
  const D d;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  const auto below = hn::Set(d, grid.low - grid.middle), above = hn::Set(d, grid.high - grid.middle);
  for (std::int64_t lane = 0; lane < kLanes; lane += step) {
    auto low = hn::LoadU(d, values + lane), high = low;
    for (std::int64_t i = 1; i < count; ++i) {
      const auto v = hn::LoadU(d, values + i * kLanes + lane);
      low = hn::Min(low, v);
      high = hn::Max(high, v);
    }
    if (!grid.symmetric) {
      low = hn::Min(low, hn::Zero(d));
      high = hn::Max(high, hn::Zero(d));
      hn::StoreU(low, d, lows + lane);
      hn::StoreU(hn::Div(hn::Sub(high, low), hn::Set(d, grid.high)), d, scales + lane);
    } else if (grid.powers) {  // no sign to choose: nothing may be clipped on either side
      hn::StoreU(hn::Max(hn::Div(low, below), hn::Div(high, above)), d, scales + lane);
    } else {
      const auto largest = hn::IfThenElse(hn::Gt(hn::Abs(high), hn::Abs(low)), high, low);
      hn::StoreU(hn::Div(largest, below), d, scales + lane);
    }
  }
}

}  // namespace onnxfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "passes/quantize/weight_rewrite.h"

namespace onnxfold {
namespace {

HWY_EXPORT(extremes_to_scales);

}  // namespace

void choose_rtn(const float* values, std::int64_t count, const float* /*importance*/, const BlockGrid& grid,
                float* scales, float* lows) {
  HWY_DYNAMIC_DISPATCH(extremes_to_scales)(values, count, grid, scales, lows);
}

std::unique_ptr<Pass> make_rtn(const PassOptions& options) {
  return std::make_unique<RulePass>(weight_options(options), choose_rtn);
}

}  // namespace onnxfold
#endif
