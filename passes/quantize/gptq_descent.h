// Coordinate descent on the codes and scales of one weight, under the second moment of its inputs. Part of GPTQ.
//
// With D = W - Q and loss tr(D H D'): block by block, the scale goes to <v, DH> / <v, Hv> above what it is (v: the
// block's codes without scale), then each code to the nearest of its best value. Every step lowers the loss (but for
// the rounding of scales), so a round is never worse than what it began with.
#pragma once

#include "passes/quantize/gptq_kernels.h"
#include "passes/quantize/gptq_sweep.h"

namespace onnxfold {

// Codes in the order of a sweep, as numbers; scales and zero points by block of the weight.
struct SweptCodes {
  FloatRows codes;          // [rows, cols]
  FloatRows scales, zeros;  // [rows, blocks]
};

SweepGrid sweep_grid(const BlockFormat& format);
// How a scale is rounded to what is stored.
float (*scale_rounding(const GptqSettings& settings))(float);
// [rows, width] of a row-major matrix to and from [width][kSweepRows].
void rows_to_tile(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t width, float* tile);
void tile_to_rows(const float* tile, std::int64_t rows, std::int64_t width, float* to, std::int64_t stride);

// `rounds` of it; `refit`: scales too. `target`: the weight in the order of the sweep.
void descend_codes(const FloatRows& target, const SweepInputs& inputs, const GptqSettings& settings, int rounds,
                   bool refit, SweptCodes& codes);

}  // namespace onnxfold
