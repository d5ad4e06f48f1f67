// Exponentials and erf of many floats at once, vectorized for the CPU that runs them. Internal to exec.
//
// Within 2 units in the last place; NaN and infinity as std::exp has them. A result depends on its element alone, never
// on where it stands or on threads; of softmax_row, on its row.
#pragma once

#include <cstdint>

namespace onnxfold {

// out = e^in. `out` may be `in`.
void exp_floats(const float* in, float* out, std::int64_t count);
// out = 1 / (1 + e^-in). `out` may be `in`.
void sigmoid_floats(const float* in, float* out, std::int64_t count);
// out = erf(in). `out` may be `in`.
void erf_floats(const float* in, float* out, std::int64_t count);
// out = in / 2 (1 + erf(in / sqrt 2)), each operation rounded: far below zero it is as inexact as the operators it
// stands for. `out` may be `in`.
void gelu_floats(const float* in, float* out, std::int64_t count);
// out = e^(in - max) / sum e^(in - max), the sum in double. `out` may be `in`. REQUIRES count > 0.
void softmax_row(const float* in, float* out, std::int64_t count);

}  // namespace onnxfold
