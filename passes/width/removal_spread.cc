#include "passes/width/removal_spread.h"

#include <cmath>

namespace onnxfold {

std::vector<std::int64_t> uniform_removals(const std::vector<LayerParts>& layers, double ratio) {
  std::vector<std::int64_t> gone;
  for (const LayerParts& layer : layers)
    gone.push_back(static_cast<std::int64_t>(std::floor(ratio * static_cast<double>(layer.parts) + 1e-9)));
  return gone;
}

std::vector<std::int64_t> cheapest_removals(const std::vector<LayerParts>& layers, std::int64_t total) {
  std::vector<std::int64_t> gone(layers.size(), 0);
  for (std::int64_t step = 0; step < total; ++step) {
    std::size_t best = layers.size();
    double least = HUGE_VAL;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto at = static_cast<std::size_t>(gone[i]);
      if (at >= layers[i].cost.size()) continue;
      const double next = layers[i].cost[at] - (at == 0 ? 0 : layers[i].cost[at - 1]);
      if (next >= least) continue;
      least = next;
      best = i;
    }
    if (best == layers.size()) break;
    ++gone[best];
  }
  return gone;
}

}  // namespace onnxfold
