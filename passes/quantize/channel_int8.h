// int8 weights with one scale a channel, symmetric: what integer kernels take.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ir/tensor.h"

namespace onnxfold {

struct ChannelInt8 {
  Tensor codes;               // int8, the weight's dims
  std::vector<float> scales;  // one a channel; code * scale is the value
  bool widened = false;       // some scale is larger than the weight alone asks for
};

// Channels lie along `axis`. Codes reach from -limit to limit (127; 63 for processors whose 8-bit products saturate).
// A channel of zeros has scale 1. `least`: what no scale may be smaller than, one a channel; empty: anything goes.
// Errors: invalid_argument (NaN, infinity); whatever loading the weight reports.
Result<ChannelInt8> quantize_channels(const Tensor& weight, std::int64_t axis, int limit = 127,
                                      std::span<const float> least = {});

// The scales of a weight below which its bias leaves int32 (with a bit to spare for the sum): channels that are nearly
// dead often have a bias nevertheless. Errors: invalid_argument (NaN, infinity); whatever loading the bias reports.
Result<std::vector<float>> least_scales(const Tensor& bias, float input_scale);

// [rows, cols] -> [cols, rows] of int8.
Result<Tensor> transposed_codes(const Tensor& codes);

// A bias as integer products add it: round(bias / (input scale * weight scale)) in int32, saturated.
Tensor int32_bias(const std::vector<float>& bias, const std::vector<float>& scales, float input_scale);

}  // namespace onnxfold
