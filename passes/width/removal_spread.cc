#include "passes/width/removal_spread.h"

#include <algorithm>
#include <cmath>

namespace onnxfold {

std::int64_t float_parameters(const Graph& graph) {
  std::int64_t count = 0;
  for (const Value* value : graph.initializers()) {
    if (is_float(value->dtype())) count += value->initializer()->size();
  }
  return count;
}

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

namespace {

// How many are gone after the next step; the present number when there is no further step.
std::int64_t next_step(const LayerParts& layer, std::int64_t gone, std::int64_t together) {
  const std::int64_t rest = (layer.parts - gone) % together, next = gone + (rest == 0 ? together : rest);
  const bool known = layer.cost.empty() || next <= static_cast<std::int64_t>(layer.cost.size());
  return known && layer.parts - next >= std::min(together, layer.parts) && next < layer.parts ? next : gone;
}

double cost_of(const LayerParts& layer, std::int64_t gone) {
  // Not known: rises with the share that is gone, so that layers lose equal shares.
  if (layer.cost.empty()) {
    return static_cast<double>(gone * gone * layer.parameters) / static_cast<double>(layer.parts);
  }
  return gone == 0 ? 0 : layer.cost[static_cast<std::size_t>(gone - 1)];
}

}  // namespace

std::vector<std::int64_t> removals_of_parameters(const std::vector<LayerParts>& layers, std::int64_t parameters,
                                                 std::int64_t together) {
  std::vector<std::int64_t> gone(layers.size(), 0);
  while (parameters > 0) {
    std::size_t best = layers.size();
    double least = HUGE_VAL;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const std::int64_t next = next_step(layers[i], gone[i], together);
      if (next == gone[i]) continue;
      const double price = (cost_of(layers[i], next) - cost_of(layers[i], gone[i])) /
                           static_cast<double>((next - gone[i]) * std::max<std::int64_t>(layers[i].parameters, 1));
      if (price >= least) continue;
      least = price;
      best = i;
    }
    if (best == layers.size()) break;
    const std::int64_t next = next_step(layers[best], gone[best], together);
    parameters -= (next - gone[best]) * layers[best].parameters;
    gone[best] = next;
  }
  return gone;
}

}  // namespace onnxfold
