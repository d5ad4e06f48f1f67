// As rtn, with the zero point of every block moved by half-quadratic optimisation (HQQ, Badri and Shaji 2023).
//
// The scale is that of the range, s = (hi - lo) / (2^bits - 1). Wanted: the zero point z with the least sum of |D|^p,
// D = v - s (q - z) the errors, p = 45/64 (the paper's 0.7). Repeat with growing beta: E = sign(D) max(|D| -
// |D|^(p-1) / beta, 0), the part of the error that is left to outliers; z = mean(q - (v - E) / s), which is z less the
// mean of D - E; q rounded anew. Here D is measured in steps, so that scaling a weight changes no code. The best by sum
// of D^2 wins, block by block, of a start with the exact and one with the rounded zero point of the range. Float zero
// points: the scale has its turn after z. Where zero points are codes, z cannot move freely and the scale takes its
// place: for both neighbours of the best z the quadratic half is solved for s = <v - E, q - z> / <q - z, q - z>, a few
// times, and the best of all wins. Beta starts lower and grows faster than in the paper (4 by 1.1 against 10 by 1.01):
// larger steps come to less error in a third of the rounds.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "passes/quantize/hqq.cc"
#include <hwy/foreach_target.h>
// foreach_target first
#include <hwy/highway.h>

#include "passes/quantize/blockwise.h"

HWY_BEFORE_NAMESPACE();
namespace onnxfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, kLanes>;
using V = hn::Vec<D>;

constexpr int kRounds = 6;
constexpr int kScaleRounds = 4;
constexpr float kBeta = 4, kGrowth = 1.1F;

// x^(-19/64) for x >= 0 within 2 %: the bits of a float are nearly its logarithm.
HWY_INLINE V rough_power(D d, V x) {
  constexpr double kMantissa = 8388608, kBias = 126.955;  // 127 less what the straight line between powers lies below
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(di, x);
  const auto part = hn::Sub(hn::Add(hn::ShiftRight<2>(bits), hn::ShiftRight<4>(bits)), hn::ShiftRight<6>(bits));
  const auto one = hn::Set(di, static_cast<std::int32_t>(kMantissa * kBias * (1 + 19.0 / 64)));
  return hn::BitCast(d, hn::Sub(one, part));
}

// The part of an error that the quadratic half keeps: |D| - |E|, with the sign of D.
HWY_INLINE V kept(D d, V miss, V weight) {
  const auto size = hn::Abs(miss);
  return hn::CopySignToAbs(hn::Min(size, hn::Mul(rough_power(d, size), weight)), miss);
}

// The best (scale, zero point) so far, by the sum of D^2.
struct Best {
  V scale, z, error;
};

HWY_INLINE void offer(V scale, V z, V error, Best& best) {
  const auto better = hn::Lt(error, best.error);
  best.scale = hn::IfThenElse(better, scale, best.scale);
  best.z = hn::IfThenElse(better, z, best.z);
  best.error = hn::IfThenElse(better, error, best.error);
}

// x / y, 0 where y is 0.
HWY_INLINE V ratio(D d, V x, V y) {
  const auto some = hn::Ne(y, hn::Zero(d));
  return hn::IfThenElseZero(some, hn::Div(x, hn::IfThenElse(some, y, hn::Set(d, 1.0F))));
}

// The zero point's turn, at a scale that stays.
HWY_INLINE void move_zero(D d, const float* values, std::int64_t count, V scale, V z, V top, int rounds, Best& best) {
  const auto factor = ratio(d, hn::Set(d, 1.0F), scale);
  const auto share = hn::Set(d, 1 / static_cast<float>(count)), area = hn::Mul(scale, scale);
  float beta = kBeta;
  for (int round = 0; round < rounds; ++round, beta *= kGrowth) {
    const auto weight = hn::Set(d, 1 / beta);
    auto error = hn::Zero(d), sum = hn::Zero(d);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = hn::Add(hn::Mul(hn::LoadU(d, values + i * kLanes), factor), z);
      const auto miss = hn::Sub(at, hn::Min(hn::Max(hn::Round(at), hn::Zero(d)), top));
      error = hn::Add(error, hn::Mul(miss, miss));
      sum = hn::Add(sum, kept(d, miss, weight));
    }
    offer(scale, z, hn::Mul(error, area), best);
    z = hn::Sub(z, hn::Mul(sum, share));
  }
}

// The scale's turn, at a zero point that stays.
HWY_INLINE void move_scale(D d, const float* values, std::int64_t count, V scale, V z, V top, Best& best) {
  float beta = kBeta;
  for (int round = 0; round < kScaleRounds; ++round, beta *= kGrowth) {
    const auto factor = ratio(d, hn::Set(d, 1.0F), scale), weight = hn::Set(d, 1 / beta);
    auto error = hn::Zero(d), more = hn::Zero(d), qq = hn::Zero(d);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = hn::Add(hn::Mul(hn::LoadU(d, values + i * kLanes), factor), z);
      const auto code = hn::Min(hn::Max(hn::Round(at), hn::Zero(d)), top);
      const auto miss = hn::Sub(at, code), q = hn::Sub(code, z);
      error = hn::Add(error, hn::Mul(miss, miss));
      more = hn::Add(more, hn::Mul(q, kept(d, miss, weight)));
      qq = hn::Add(qq, hn::Mul(q, q));
    }
    offer(scale, z, hn::Mul(error, hn::Mul(scale, scale)), best);
    scale = hn::Add(scale, hn::Mul(scale, ratio(d, more, qq)));
  }
}

// `whole`: zero points are codes, and the range includes 0 so that one exists.
void optimise(const float* values, std::int64_t count, const BlockGrid& grid, bool whole, float* scales, float* lows) {
  const D d;
  const auto zero = hn::Zero(d), top = hn::Set(d, grid.high), one = hn::Set(d, 1.0F), much = hn::Set(d, 3.4e38F);
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t lane = 0; lane < kLanes; lane += step) {
    const float* block = values + lane;
    auto low = hn::LoadU(d, block), high = low;
    for (std::int64_t i = 1; i < count; ++i) {
      low = hn::Min(low, hn::LoadU(d, block + i * kLanes));
      high = hn::Max(high, hn::LoadU(d, block + i * kLanes));
    }
    if (whole) {
      low = hn::Min(low, zero);
      high = hn::Max(high, zero);
    }
    const auto range = hn::Sub(high, low);
    const auto scale = hn::IfThenElse(hn::Eq(range, zero), hn::Abs(low), hn::Div(range, top));  // one value only?
    const auto factor = ratio(d, one, scale);
    const auto exact = hn::Neg(hn::Mul(low, factor));
    Best best{scale, exact, much};
    move_zero(d, block, count, scale, exact, top, kRounds, best);
    move_zero(d, block, count, scale, hn::Round(exact), top, kRounds, best);  // off the grid of the extremes
    if (whole) {
      const auto below = hn::Min(hn::Max(hn::Floor(best.z), zero), top), above = hn::Min(hn::Add(below, one), top);
      best = {scale, below, much};
      move_scale(d, block, count, scale, below, top, best);
      move_scale(d, block, count, scale, above, top, best);
    } else {
      move_scale(d, block, count, best.scale, best.z, top, best);
      move_zero(d, block, count, best.scale, best.z, top, kScaleRounds, best);
      move_scale(d, block, count, best.scale, best.z, top, best);
    }
    hn::StoreU(best.scale, d, scales + lane);
    hn::StoreU(hn::Neg(hn::Mul(best.z, best.scale)), d, lows + lane);
  }
}

}  // namespace onnxfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "passes/quantize/weight_rewrite.h"

namespace onnxfold {
namespace {

HWY_EXPORT(optimise);

}  // namespace

void choose_hqq(const float* values, std::int64_t count, const float* /*importance*/, const BlockGrid& grid,
                float* scales, float* lows) {
  HWY_DYNAMIC_DISPATCH(optimise)(values, count, grid, !grid.float_zeros, scales, lows);
}

std::unique_ptr<Pass> make_hqq(const PassOptions& options) {
  return std::make_unique<RulePass>(weight_options(options), choose_hqq);
}

}  // namespace onnxfold
#endif
