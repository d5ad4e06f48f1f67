#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "passes/quantize/gptq_kernels.cc"
#include <hwy/foreach_target.h>
// foreach_target first
#include <hwy/highway.h>

#include <vector>

#include "passes/quantize/gptq_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace onnxfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, kSweepRows>;
using V = hn::Vec<D>;

// x / y, 0 where y is 0.
HWY_INLINE V ratio(D d, V x, V y) {
  const auto some = hn::Ne(y, hn::Zero(d));
  return hn::IfThenElseZero(some, hn::Div(x, hn::IfThenElse(some, y, hn::Set(d, 1.0F))));
}

HWY_INLINE V clamp_round(V x, V low, V high) { return hn::Min(hn::Max(hn::Round(x), low), high); }

// Factors r by which codes may overshoot the grid: little for many bits, much for few.
struct Overshoot {
  float first, last;
  int steps;
  float at(int i) const { return first + (last - first) * static_cast<float>(i) / static_cast<float>(steps - 1); }
};

HWY_INLINE Overshoot overshoot(int bits) {
  if (bits == 2) return {0.55F, 2.5F, 32};
  if (bits == 3) return {0.75F, 1.9F, 28};
  if (bits == 4) return {0.85F, 1.5F, 22};
  return {0.98F, 1.12F, 8};
}

struct Range {
  V low, high;
};

HWY_INLINE Range range_of(D d, const float* values, std::int64_t count) {
  Range range{hn::LoadU(d, values), hn::LoadU(d, values)};
  for (std::int64_t i = 1; i < count; ++i) {
    const auto v = hn::LoadU(d, values + i * kSweepRows);
    range.low = hn::Min(range.low, v);
    range.high = hn::Max(range.high, v);
  }
  return range;
}

// The candidates of one vector of rows: visit(factor, zero), factor = 1 / scale.
template <typename Visit>
HWY_INLINE void visit_candidates(D d, const float* values, std::int64_t count, const SweepGrid& grid, Visit visit) {
  const Range range = range_of(d, values, count);
  const Overshoot span = overshoot(grid.bits);
  const auto top = hn::Set(d, grid.high), zero = hn::Zero(d);
  if (grid.symmetric) {
    const auto middle = hn::Set(d, grid.middle);
    const auto largest = hn::IfThenElse(hn::Gt(hn::Abs(range.high), hn::Abs(range.low)), range.high, range.low);
    const auto unit = ratio(d, hn::Set(d, grid.low - grid.middle), largest);
    for (int i = 0; i < span.steps; ++i) {
      const auto factor = hn::Mul(unit, hn::Set(d, span.at(i)));
      visit(factor, middle);
      visit(hn::Neg(factor), middle);
    }
    return;
  }
  const auto low = hn::Min(range.low, zero), high = hn::Max(range.high, zero);
  const auto unit = ratio(d, top, hn::Sub(high, low));
  const auto centre = hn::Mul(hn::Add(low, high), hn::Set(d, 0.5F));
  for (int i = 0; i < span.steps; ++i) {
    const auto factor = hn::Mul(unit, hn::Set(d, span.at(i)));
    const auto exact = hn::NegMulAdd(centre, factor, hn::Mul(top, hn::Set(d, 0.5F)));
    const auto first = hn::Floor(hn::Min(hn::Max(exact, zero), top));
    visit(factor, first);
    visit(factor, hn::Min(hn::Add(first, hn::Set(d, 1.0F)), top));
  }
}

// Weighted by 1 / U_ii^2: of the codes of a candidate the best scale is <v,q> / <q,q>, and it explains <v,q>^2 / <q,q>.
struct Best {
  V explained, scale, zero;
};

HWY_INLINE void offer(D d, const float* values, std::int64_t count, const float* weights, const SweepGrid& grid,
                      V factor, V zero, Best& best) {
  const auto low = hn::Sub(hn::Set(d, grid.low), zero), high = hn::Sub(hn::Set(d, grid.high), zero);
  auto vq = hn::Zero(d), qq = hn::Zero(d);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto v = hn::LoadU(d, values + i * kSweepRows);
    const auto q = clamp_round(hn::Mul(v, factor), low, high);
    const auto weighted = hn::Mul(q, hn::Set(d, weights[i]));
    vq = hn::MulAdd(weighted, v, vq);
    qq = hn::MulAdd(weighted, q, qq);
  }
  const auto scale = ratio(d, vq, qq);
  const auto explained = hn::Mul(scale, vq);
  const auto better = hn::Gt(explained, best.explained);
  best.explained = hn::IfThenElse(better, explained, best.explained);
  best.scale = hn::IfThenElse(better, scale, best.scale);
  best.zero = hn::IfThenElse(better, zero, best.zero);
}

void search_u(const float* values, const SweepBlock& block, const SweepGrid& grid, float* scales, float* zeros) {
  const D d;
  std::vector<float> weights(static_cast<std::size_t>(block.count));
  for (std::int64_t i = 0; i < block.count; ++i) {
    const float u = block.matrix[(block.first + i) * (block.stride + 1)];
    weights[static_cast<std::size_t>(i)] = 1.0F / (u * u);
  }
  for (std::int64_t lane = 0; lane < kSweepRows; lane += static_cast<std::int64_t>(hn::Lanes(d))) {
    const float* first = values + block.first * kSweepRows + lane;
    Best best{hn::Zero(d), hn::Zero(d), hn::Set(d, grid.middle)};
    visit_candidates(d, first, block.count, grid, [&](V factor, V zero) HWY_ATTR {
      offer(d, first, block.count, weights.data(), grid, factor, zero, best);
    });
    for (int round = 0; round < 2; ++round) {
      offer(d, first, block.count, weights.data(), grid, ratio(d, hn::Set(d, 1.0F), best.scale), best.zero, best);
    }
    hn::StoreU(best.scale, d, scales + lane);
    hn::StoreU(best.zero, d, zeros + lane);
  }
}

// GPTQ loss of one block for one candidate; `work` [count][Lanes] is overwritten.
HWY_INLINE V sweep_loss(D d, const float* values, const SweepBlock& block, const SweepGrid& grid, V scale, V factor,
                        V zero, float* work) {
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  const auto low = hn::Sub(hn::Set(d, grid.low), zero), high = hn::Sub(hn::Set(d, grid.high), zero);
  for (std::int64_t i = 0; i < block.count; ++i) {
    hn::StoreU(hn::LoadU(d, values + i * kSweepRows), d, work + i * step);
  }
  auto loss = hn::Zero(d);
  for (std::int64_t i = 0; i < block.count; ++i) {
    const float* u = block.matrix + (block.first + i) * block.stride + block.first;
    const auto v = hn::LoadU(d, work + i * step);
    const auto q = clamp_round(hn::Mul(v, factor), low, high);
    const auto error = hn::Mul(hn::NegMulAdd(q, scale, v), hn::Set(d, 1.0F / u[i]));
    loss = hn::MulAdd(error, error, loss);
    for (std::int64_t j = i + 1; j < block.count; ++j) {
      hn::StoreU(hn::NegMulAdd(error, hn::Set(d, u[j]), hn::LoadU(d, work + j * step)), d, work + j * step);
    }
  }
  return loss;
}

void search_sweep(const float* values, const SweepBlock& block, const SweepGrid& grid, float* scales, float* zeros) {
  search_u(values, block, grid, scales, zeros);
  const D d;
  const auto one = hn::Set(d, 1.0F);
  std::vector<float> work(static_cast<std::size_t>(block.count * kSweepRows));
  for (std::int64_t lane = 0; lane < kSweepRows; lane += static_cast<std::int64_t>(hn::Lanes(d))) {
    const float* first = values + block.first * kSweepRows + lane;
    auto scale = hn::LoadU(d, scales + lane), zero = hn::LoadU(d, zeros + lane);
    auto least = sweep_loss(d, first, block, grid, scale, ratio(d, one, scale), zero, work.data());
    visit_candidates(d, first, block.count, grid, [&](V factor, V candidate) HWY_ATTR {
      const auto tried = ratio(d, one, factor);
      const auto loss = sweep_loss(d, first, block, grid, tried, factor, candidate, work.data());
      const auto better = hn::Lt(loss, least);
      least = hn::IfThenElse(better, loss, least);
      scale = hn::IfThenElse(better, tried, scale);
      zero = hn::IfThenElse(better, candidate, zero);
    });
    hn::StoreU(scale, d, scales + lane);
    hn::StoreU(zero, d, zeros + lane);
  }
}

void sweep(float* values, const SweepBlock& block, const SweepGrid& grid, const float* scales, const float* zeros,
           float* codes, float* errors) {
  const D d;
  const auto low = hn::Set(d, grid.low), high = hn::Set(d, grid.high);
  for (std::int64_t lane = 0; lane < kSweepRows; lane += static_cast<std::int64_t>(hn::Lanes(d))) {
    const auto scale = hn::LoadU(d, scales + lane), zero = hn::LoadU(d, zeros + lane);
    const auto factor = ratio(d, hn::Set(d, 1.0F), scale);
    for (std::int64_t i = block.first; i < block.first + block.count; ++i) {
      const float* u = block.matrix + i * block.stride;
      const std::int64_t at = i * kSweepRows + lane;
      const auto v = hn::LoadU(d, values + at);
      const auto q = clamp_round(hn::MulAdd(v, factor, zero), low, high);
      const auto error = hn::Mul(hn::NegMulAdd(hn::Sub(q, zero), scale, v), hn::Set(d, 1.0F / u[i]));
      hn::StoreU(q, d, codes + at);
      hn::StoreU(error, d, errors + at);
      for (std::int64_t j = i + 1; j < block.width; ++j) {
        float* to = values + j * kSweepRows + lane;
        hn::StoreU(hn::NegMulAdd(error, hn::Set(d, u[j]), hn::LoadU(d, to)), d, to);
      }
    }
  }
}

// <v, g> and <v, H v> of the block's codes v = code - zero: the scale that is best for them moves by their ratio.
HWY_INLINE V scale_step(D d, const float* gradients, const SweepBlock& block, V zero, const float* codes,
                        std::int64_t lane) {
  auto vg = hn::Zero(d), vhv = hn::Zero(d);
  for (std::int64_t i = block.first; i < block.first + block.count; ++i) {
    const float* h = block.matrix + i * block.stride;
    auto hv = hn::Zero(d);
    for (std::int64_t j = block.first; j < block.first + block.count; ++j) {
      const auto v = hn::Sub(hn::LoadU(d, codes + j * kSweepRows + lane), zero);
      hv = hn::MulAdd(v, hn::Set(d, h[j]), hv);
    }
    const auto v = hn::Sub(hn::LoadU(d, codes + i * kSweepRows + lane), zero);
    vg = hn::MulAdd(v, hn::LoadU(d, gradients + i * kSweepRows + lane), vg);
    vhv = hn::MulAdd(v, hv, vhv);
  }
  return ratio(d, vg, vhv);
}

// Column `i` of the weight falls by `delta`: the gradient of every column of the tile rises by delta H_ij.
HWY_INLINE void lower_column(D d, float* gradients, const SweepBlock& block, std::int64_t i, V delta,
                             std::int64_t lane) {
  const float* h = block.matrix + i * block.stride;
  for (std::int64_t j = 0; j < block.width; ++j) {
    float* to = gradients + j * kSweepRows + lane;
    hn::StoreU(hn::MulAdd(delta, hn::Set(d, h[j]), hn::LoadU(d, to)), d, to);
  }
}

void descend(float* gradients, const SweepBlock& block, const SweepGrid& grid, float* scales, const float* zeros,
             bool refit, float (*round_scale)(float), float* codes, float* moved) {
  const D d;
  const auto low = hn::Set(d, grid.low), high = hn::Set(d, grid.high), one = hn::Set(d, 1.0F);
  for (std::int64_t lane = 0; lane < kSweepRows; lane += static_cast<std::int64_t>(hn::Lanes(d))) {
    const auto zero = hn::LoadU(d, zeros + lane);
    auto scale = hn::LoadU(d, scales + lane);
    const auto before = scale;
    if (refit) {
      hn::StoreU(hn::Add(scale, scale_step(d, gradients, block, zero, codes, lane)), d, scales + lane);
      for (std::int64_t k = 0; k < static_cast<std::int64_t>(hn::Lanes(d)); ++k) {
        scales[lane + k] = round_scale(scales[lane + k]);
      }
      scale = hn::LoadU(d, scales + lane);
    }
    const auto change = hn::Sub(before, scale), factor = ratio(d, one, scale);
    for (std::int64_t i = block.first; refit && i < block.first + block.count; ++i) {
      const std::int64_t at = i * kSweepRows + lane;
      const auto delta = hn::Mul(hn::Sub(hn::LoadU(d, codes + at), zero), change);
      hn::StoreU(delta, d, moved + at);
      lower_column(d, gradients, block, i, delta, lane);
    }
    for (std::int64_t i = block.first; i < block.first + block.count; ++i) {
      const std::int64_t at = i * kSweepRows + lane;
      const auto code = hn::LoadU(d, codes + at);
      const auto step = hn::Mul(hn::LoadU(d, gradients + at), hn::Set(d, 1.0F / block.matrix[i * (block.stride + 1)]));
      const auto better = clamp_round(hn::MulAdd(step, factor, code), low, high);
      const auto delta = hn::Mul(hn::Sub(code, better), scale);
      const auto so_far = refit ? hn::LoadU(d, moved + at) : hn::Zero(d);
      hn::StoreU(hn::Add(so_far, delta), d, moved + at);
      if (hn::AllTrue(d, hn::Eq(code, better))) continue;
      hn::StoreU(better, d, codes + at);
      lower_column(d, gradients, block, i, delta, lane);
    }
  }
}

}  // namespace onnxfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace onnxfold {
namespace {

HWY_EXPORT(search_u);
HWY_EXPORT(search_sweep);
HWY_EXPORT(sweep);
HWY_EXPORT(descend);

}  // namespace

void search_scales(const float* values, const SweepBlock& block, const SweepGrid& grid, float* scales, float* zeros) {
  HWY_DYNAMIC_DISPATCH(search_u)(values, block, grid, scales, zeros);
}

void search_scales_by_sweep(const float* values, const SweepBlock& block, const SweepGrid& grid, float* scales,
                            float* zeros) {
  HWY_DYNAMIC_DISPATCH(search_sweep)(values, block, grid, scales, zeros);
}

void sweep_columns(float* values, const SweepBlock& block, const SweepGrid& grid, const float* scales,
                   const float* zeros, float* codes, float* errors) {
  HWY_DYNAMIC_DISPATCH(sweep)(values, block, grid, scales, zeros, codes, errors);
}

void descend_columns(float* gradients, const SweepBlock& block, const SweepGrid& grid, float* scales,
                     const float* zeros, bool refit, float (*round_scale)(float), float* codes, float* moved) {
  HWY_DYNAMIC_DISPATCH(descend)(gradients, block, grid, scales, zeros, refit, round_scale, codes, moved);
}

}  // namespace onnxfold
#endif
