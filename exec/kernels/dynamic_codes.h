// Numbers as ONNX Runtime rounds the inputs of dynamically quantized products: to 256 codes between the least and the
// largest (0 among them), and back.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace onnxfold {

// `to` may be `from`. The range is that of the first `seen` numbers (negative: of all).
template <typename T>
void round_dynamically(const T* from, std::int64_t count, T* to, std::int64_t seen = -1) {
  float low = 0, high = 0;
  for (std::int64_t i = 0; i < (seen < 0 ? count : seen); ++i) {
    low = std::min(low, static_cast<float>(from[i]));
    high = std::max(high, static_cast<float>(from[i]));
  }
  const float step = high == low ? 1.0F : (high - low) / 255.0F;
  const float zero = std::clamp(std::nearbyint((0.0F - low) / step), 0.0F, 255.0F);
  for (std::int64_t i = 0; i < count; ++i) {
    const float code = std::clamp(std::nearbyint(static_cast<float>(from[i]) / step) + zero, 0.0F, 255.0F);
    to[i] = static_cast<T>((code - zero) * step);
  }
}

}  // namespace onnxfold
