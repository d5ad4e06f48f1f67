// SIMD kernels that every blockwise method shares; compiled for several instruction sets and chosen at run time.
#pragma once

#include <cstdint>

namespace onnxfold {

// codes[i * kLanes + lane] = clamp(round_half_away(value * factor + zero), low, high) with the lane's factor and zero.
// REQUIRES: 0 <= low <= high <= 255.
void encode_lanes(const float* values, std::int64_t count, const float* factors, const float* zeros, float low,
                  float high, std::uint8_t* codes);

bool all_finite(const float* values, std::int64_t count);

// [count][kLanes] bytes -> rows: to[lane * stride + i], for the first `lanes` lanes.
void lanes_to_rows(const std::uint8_t* lanes_first, std::int64_t count, std::int64_t lanes, std::uint8_t* to,
                   std::int64_t stride);

// rows -> [count][kLanes]: to[i * kLanes + lane] = from[lane * stride + i]; lanes past `lanes` become 0.
void rows_to_lanes(const float* from, std::int64_t stride, std::int64_t count, std::int64_t lanes, float* to);

}  // namespace onnxfold
