// Rotary position embedding of attention heads.
#pragma once

#include <cstdint>

namespace onnxfold {

// Rotates the first 2 * half elements of a head by the angles whose cosines and sines are given, [half] each. Pairs are
// (i, i + half), or neighbours when interleaved. In place is fine.
template <typename T>
void rotate_head(const T* x, const T* cosines, const T* sines, std::int64_t half, bool interleaved, T* y) {
  for (std::int64_t i = 0; i < half; ++i) {
    const std::int64_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;
    const T real = x[a], imaginary = x[b];
    y[a] = cosines[i] * real - sines[i] * imaginary;
    y[b] = sines[i] * real + cosines[i] * imaginary;
  }
}

}  // namespace onnxfold
