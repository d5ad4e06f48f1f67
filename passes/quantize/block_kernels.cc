#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "passes/quantize/block_kernels.cc"
#include <hwy/foreach_target.h>
// foreach_target first
#include <hwy/highway.h>

#include "passes/quantize/block_kernels.h"
#include "passes/quantize/blockwise.h"

HWY_BEFORE_NAMESPACE();
namespace onnxfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// kLanes is a multiple of every vector length up to 64 floats; longer vectors are capped.
using D = hn::CappedTag<float, kLanes>;

// After clamping to 0 and more, half away is half up, and truncation with an exact fraction decides it without the
// double rounding of floor(x + 0.5).
void encode(const float* values, std::int64_t count, const float* factors, const float* zeros, float low, float high,
            std::uint8_t* codes) {
  const D d;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<std::uint8_t, D> d8;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  const auto least = hn::Set(d, low), most = hn::Set(d, high), half = hn::Set(d, 0.5F);
  for (std::int64_t lane = 0; lane < kLanes; lane += step) {
    const auto factor = hn::LoadU(d, factors + lane), zero = hn::LoadU(d, zeros + lane);
    for (std::int64_t i = 0; i < count; ++i) {
      auto x = hn::Add(hn::Mul(hn::LoadU(d, values + i * kLanes + lane), factor), zero);
      x = hn::Min(hn::Max(x, least), most);
      const auto whole = hn::ConvertTo(di, x);
      const auto up = hn::Ge(hn::Sub(x, hn::ConvertTo(d, whole)), half);
      const auto code = hn::Add(whole, hn::IfThenElseZero(hn::RebindMask(di, up), hn::Set(di, 1)));
      hn::StoreU(hn::DemoteTo(d8, code), d8, codes + i * kLanes + lane);
    }
  }
}

// Grows NaN with the first NaN or infinity.
bool finite(const float* values, std::int64_t count) {
  const D d;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  auto poison = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + step <= count; i += step) {
    poison = hn::Add(poison, hn::Mul(hn::LoadU(d, values + i), hn::Zero(d)));
  }
  float rest = 0;
  for (; i < count; ++i) rest += values[i] * 0.0F;
  return hn::AllTrue(d, hn::Eq(poison, hn::Zero(d))) && rest == 0.0F;
}

}  // namespace onnxfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <cstring>

namespace onnxfold {
namespace {

HWY_EXPORT(encode);
HWY_EXPORT(finite);

// 8 x 8 bytes, row r in rows[r], transposed in place (Hacker's Delight 7-3, on bytes).
void transpose_bytes(std::uint64_t* rows) {
  const auto swap = [rows](int a, int b, int shift, std::uint64_t mask) {
    const std::uint64_t t = ((rows[a] >> shift) ^ rows[b]) & mask;
    rows[a] ^= t << shift;
    rows[b] ^= t;
  };
  for (int r = 0; r < 8; r += 2) swap(r, r + 1, 8, 0x00FF00FF00FF00FFULL);
  for (const int r : {0, 1, 4, 5}) swap(r, r + 2, 16, 0x0000FFFF0000FFFFULL);
  for (int r = 0; r < 4; ++r) swap(r, r + 4, 32, 0x00000000FFFFFFFFULL);
}

}  // namespace

void encode_lanes(const float* values, std::int64_t count, const float* factors, const float* zeros, float low,
                  float high, std::uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(encode)(values, count, factors, zeros, low, high, codes);
}

bool all_finite(const float* values, std::int64_t count) { return HWY_DYNAMIC_DISPATCH(finite)(values, count); }

void lanes_to_rows(const std::uint8_t* lanes_first, std::int64_t count, std::int64_t lanes, std::uint8_t* to,
                   std::int64_t stride) {
  const std::int64_t whole = lanes / 8 * 8;
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (std::int64_t lane = 0; lane < whole; lane += 8) {
      std::uint64_t rows[8];
      for (std::int64_t r = 0; r < 8; ++r) std::memcpy(&rows[r], lanes_first + (i + r) * kLanes + lane, 8);
      transpose_bytes(rows);
      for (std::int64_t r = 0; r < 8; ++r) std::memcpy(to + (lane + r) * stride + i, &rows[r], 8);
    }
    for (std::int64_t lane = whole; lane < lanes; ++lane) {
      for (std::int64_t r = 0; r < 8; ++r) to[lane * stride + i + r] = lanes_first[(i + r) * kLanes + lane];
    }
  }
  for (; i < count; ++i) {
    for (std::int64_t lane = 0; lane < lanes; ++lane) to[lane * stride + i] = lanes_first[i * kLanes + lane];
  }
}

void rows_to_lanes(const float* from, std::int64_t stride, std::int64_t count, std::int64_t lanes, float* to) {
  if (lanes < kLanes) std::fill(to, to + count * kLanes, 0.0F);
  constexpr std::int64_t kStep = 16;  // a cache line of each row
  for (std::int64_t begin = 0; begin < count; begin += kStep) {
    const std::int64_t end = std::min(count, begin + kStep);
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      for (std::int64_t i = begin; i < end; ++i) to[i * kLanes + lane] = from[lane * stride + i];
    }
  }
}

}  // namespace onnxfold
#endif
