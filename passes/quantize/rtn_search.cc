// As rtn, with the scale of every block searched for the least squared error of its weights.
//
// Symmetric: candidates scale = m / (-2^(bits-1) r) and of the other sign, r from clipping nothing to clipping much.
// For the codes q of a candidate the best scale is <v,q> / <q,q> and explains <v,q>^2 / <q,q> of the energy <v,v>; the
// candidate that explains most wins and is refitted. Asymmetric: ranges shrunk around their middle, each with the two
// nearest zero points; the same with q - zero. Then codes and scale are refitted in turn while that helps; the last
// fit sums in double. Powers of two: the exponent with the least error of those that clip little.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "passes/quantize/rtn_search.cc"
#include <hwy/foreach_target.h>
// foreach_target first
#include <hwy/highway.h>

#include "passes/quantize/blockwise.h"

HWY_BEFORE_NAMESPACE();
namespace onnxfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, kLanes>;
using V = hn::Vec<D>;

// A vector of blocks, and what an error of each element costs (null: all the same).
struct Block {
  const float* values;
  std::int64_t count;
  const float* importance;
};

// Sums over a block for codes round(v * factor) clamped to [low, high]; codes are relative to the zero point.
struct Fit {
  V vq, qq;
};

HWY_INLINE Fit fit(D d, const Block& block, V factor, V low, V high) {
  Fit sums{hn::Zero(d), hn::Zero(d)};
  for (std::int64_t i = 0; i < block.count; ++i) {
    const auto v = hn::LoadU(d, block.values + i * kLanes);
    const auto q = hn::Min(hn::Max(hn::Round(hn::Mul(v, factor)), low), high);
    const auto weighted = block.importance == nullptr ? q : hn::Mul(q, hn::Set(d, block.importance[i]));
    sums.vq = hn::Add(sums.vq, hn::Mul(weighted, v));
    sums.qq = hn::Add(sums.qq, hn::Mul(weighted, q));
  }
  return sums;
}

// x / y, 0 where y is 0.
HWY_INLINE V ratio(D d, V x, V y) {
  const auto some = hn::Ne(y, hn::Zero(d));
  return hn::IfThenElseZero(some, hn::Div(x, hn::IfThenElse(some, y, hn::Set(d, 1.0F))));
}

// The best candidate so far of a vector of blocks.
struct Best {
  V explained, scale, low, high;  // low, high: the codes relative to the zero point
};

HWY_INLINE void offer(D d, const Block& block, V factor, V low, V high, Best& best) {
  const Fit sums = fit(d, block, factor, low, high);
  const auto scale = ratio(d, sums.vq, sums.qq);
  const auto explained = hn::Mul(scale, sums.vq);
  const auto better = hn::Gt(explained, best.explained);
  best.explained = hn::IfThenElse(better, explained, best.explained);
  best.scale = hn::IfThenElse(better, scale, best.scale);
  best.low = hn::IfThenElse(better, low, best.low);
  best.high = hn::IfThenElse(better, high, best.high);
}

// Factors r by which codes may overshoot the grid: little for many bits, much for few.
struct Span {
  float first, last;
  int steps;
};

HWY_INLINE Span span_of(int bits) {
  if (bits == 2) return {0.55F, 2.5F, 40};
  if (bits == 3) return {0.75F, 1.9F, 32};
  if (bits == 4) return {0.85F, 1.5F, 24};
  return {0.98F, 1.12F, 12};
}

void search_symmetric(const Block& block, const BlockGrid& grid, float* scales) {
  const D d;
  const auto below = hn::Set(d, grid.low - grid.middle), above = hn::Set(d, grid.high - grid.middle);
  auto low = hn::LoadU(d, block.values), high = low;
  for (std::int64_t i = 1; i < block.count; ++i) {
    const auto v = hn::LoadU(d, block.values + i * kLanes);
    low = hn::Min(low, v);
    high = hn::Max(high, v);
  }
  const auto largest = hn::IfThenElse(hn::Gt(hn::Abs(high), hn::Abs(low)), high, low);
  const auto zero = hn::Zero(d);
  Best best{zero, zero, below, above};
  const Span span = span_of(grid.bits);
  const auto unit = ratio(d, below, largest);
  for (int i = 0; i < span.steps; ++i) {
    const float r = span.first + (span.last - span.first) * static_cast<float>(i) / static_cast<float>(span.steps - 1);
    const auto factor = hn::Mul(unit, hn::Set(d, r));
    offer(d, block, factor, below, above, best);
    offer(d, block, hn::Neg(factor), below, above, best);
  }
  for (int round = 0; round < 2; ++round) {
    offer(d, block, ratio(d, hn::Set(d, 1.0F), best.scale), below, above, best);
  }
  hn::StoreU(best.scale, d, scales);
}

void search_asymmetric(const Block& block, const BlockGrid& grid, float* scales, float* zeros) {
  const D d;
  const auto zero = hn::Zero(d), top = hn::Set(d, grid.high), one = hn::Set(d, 1.0F);
  auto low = zero, high = zero;
  for (std::int64_t i = 0; i < block.count; ++i) {
    const auto v = hn::LoadU(d, block.values + i * kLanes);
    low = hn::Min(low, v);
    high = hn::Max(high, v);
  }
  const auto unit = ratio(d, top, hn::Sub(high, low));
  const auto centre = hn::Mul(hn::Add(low, high), hn::Set(d, 0.5F));
  Best best{zero, zero, zero, top};
  const Span span = span_of(grid.bits);
  for (int i = 0; i < span.steps; ++i) {
    const float r = span.first + (span.last - span.first) * static_cast<float>(i) / static_cast<float>(span.steps - 1);
    const auto factor = hn::Mul(unit, hn::Set(d, r));
    const auto exact = hn::Sub(hn::Mul(top, hn::Set(d, 0.5F)), hn::Mul(centre, factor));
    const auto first = hn::Floor(hn::Min(hn::Max(exact, zero), top));
    offer(d, block, factor, hn::Neg(first), hn::Sub(top, first), best);
    const auto second = hn::Min(hn::Add(first, one), top);
    offer(d, block, factor, hn::Neg(second), hn::Sub(top, second), best);
  }
  for (int round = 0; round < 2; ++round) {
    offer(d, block, ratio(d, one, best.scale), best.low, best.high, best);
  }
  hn::StoreU(best.scale, d, scales);
  hn::StoreU(hn::Neg(best.low), d, zeros);
}

// Least squared error over four exponents down from the one that clips nothing (`scales` has it).
void search_powers(const Block& block, const BlockGrid& grid, float* scales, const float* zeros) {
  const D d;
  const auto zero = hn::LoadU(d, zeros), start = hn::LoadU(d, scales);
  const auto low = hn::Sub(hn::Set(d, grid.low), zero), high = hn::Sub(hn::Set(d, grid.high), zero);
  auto least = hn::Set(d, 3.4e38F), chosen = start;
  for (int down = 0; down < 4; ++down) {
    const auto scale = hn::Mul(start, hn::Set(d, 1.0F / static_cast<float>(1 << down)));
    const auto factor = ratio(d, hn::Set(d, 1.0F), scale);
    auto error = hn::Zero(d);
    for (std::int64_t i = 0; i < block.count; ++i) {
      const auto v = hn::LoadU(d, block.values + i * kLanes);
      const auto q = hn::Min(hn::Max(hn::Round(hn::Mul(v, factor)), low), high);
      const auto miss = hn::Sub(v, hn::Mul(q, scale));
      const auto weighted = block.importance == nullptr ? miss : hn::Mul(miss, hn::Set(d, block.importance[i]));
      error = hn::Add(error, hn::Mul(weighted, miss));
    }
    const auto better = hn::Lt(error, least);
    least = hn::IfThenElse(better, error, least);
    chosen = hn::IfThenElse(better, scale, chosen);
  }
  hn::StoreU(chosen, d, scales);
}

// For one vector of blocks after the other; `kind`: 0 symmetric, 1 asymmetric, 2 powers of two.
void search(const float* values, std::int64_t count, const float* importance, const BlockGrid& grid, int kind,
            float* scales, float* zeros) {
  const auto step = static_cast<std::int64_t>(hn::Lanes(D()));
  for (std::int64_t lane = 0; lane < kLanes; lane += step) {
    const Block block{values + lane, count, importance};
    if (kind == 0) search_symmetric(block, grid, scales + lane);
    if (kind == 1) search_asymmetric(block, grid, scales + lane, zeros + lane);
    if (kind == 2) search_powers(block, grid, scales + lane, zeros + lane);
  }
}

}  // namespace onnxfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "passes/quantize/block_kernels.h"
#include "passes/quantize/weight_rewrite.h"

namespace onnxfold {
namespace {

HWY_EXPORT(search);

using Lanes = std::array<float, kLanes>;

// scale = <v, code - zero> / <code - zero, code - zero> in double, for the codes that `scales` and `zeros` give.
void refit(const float* values, std::int64_t count, const float* importance, const BlockGrid& grid, const Lanes& zeros,
           float* scales) {
  Lanes factors;
  for (std::size_t lane = 0; lane < kLanes; ++lane) factors[lane] = scales[lane] != 0 ? 1 / scales[lane] : 0;
  thread_local std::vector<std::uint8_t> codes;
  codes.resize(static_cast<std::size_t>(count * kLanes));
  encode_lanes(values, count, factors.data(), zeros.data(), grid.low, grid.high, codes.data());
  std::array<double, kLanes> vq{}, qq{};
  for (std::int64_t i = 0; i < count; ++i) {
    const double weight = importance == nullptr ? 1.0 : static_cast<double>(importance[i]);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const auto at = static_cast<std::size_t>(i * kLanes) + lane;
      const double q = static_cast<double>(static_cast<float>(codes[at]) - zeros[lane]);
      vq[lane] += weight * q * static_cast<double>(values[at]);
      qq[lane] += weight * q * q;
    }
  }
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    scales[lane] = qq[lane] > 0 ? static_cast<float>(vq[lane] / qq[lane]) : 0.0F;
  }
}

// Squares of numbers far from 1 are no float32 any more. Powers of two that bring such lanes near 1, 1 for the others;
// false: all are near.
bool leaves_range(const float* values, std::int64_t count, const float* scales, Lanes& units) {
  constexpr float kFar = 0x1p40F;
  units.fill(1);
  bool any = false;
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const float size = std::fabs(scales[lane]);
    if (size > 1 / kFar && size < kFar) continue;
    float largest = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      largest = std::max(largest, std::fabs(values[static_cast<std::size_t>(i * kLanes) + lane]));
    }
    if (largest == 0) continue;
    units[lane] = std::ldexp(1.0F, std::clamp(-std::ilogb(largest), -126, 126));
    any = true;
  }
  return any;
}

std::vector<float> times(const float* values, std::int64_t count, const Lanes& units) {
  std::vector<float> result(values, values + count * kLanes);
  for (std::size_t i = 0; i < result.size(); ++i) result[i] *= units[i % kLanes];
  return result;
}

}  // namespace

void choose_rtn_search(const float* values, std::int64_t count, const float* importance, const BlockGrid& grid,
                       float* scales, float* lows) {
  const auto run = HWY_DYNAMIC_DISPATCH(search);
  Lanes zeros;
  zeros.fill(grid.middle);
  if (grid.powers) {
    choose_rtn(values, count, importance, grid, scales, lows);
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      round_scales(scales + lane, 1, ScaleForm::kPowerOfTwo, DType::kFloat32);
    }
    if (grid.symmetric) run(values, count, importance, grid, 2, scales, zeros.data());
    return;
  }
  run(values, count, importance, grid, grid.symmetric ? 0 : 1, scales, zeros.data());
  refit(values, count, importance, grid, zeros, scales);
  Lanes units;
  if (leaves_range(values, count, scales, units)) {
    const std::vector<float> near = times(values, count, units);
    run(near.data(), count, importance, grid, grid.symmetric ? 0 : 1, scales, zeros.data());
    refit(near.data(), count, importance, grid, zeros, scales);
    for (std::size_t lane = 0; lane < kLanes; ++lane) scales[lane] /= units[lane];
  }
  for (std::size_t lane = 0; lane < kLanes; ++lane) lows[lane] = -zeros[lane] * scales[lane];
}

std::unique_ptr<Pass> make_rtn_search(const PassOptions& options) {
  return std::make_unique<RulePass>(weight_options(options), choose_rtn_search, options.flag("norms"));
}

}  // namespace onnxfold
#endif
