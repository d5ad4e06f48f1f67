// How many parts (neurons, heads) each layer loses.
#pragma once

#include <cstdint>
#include <vector>

namespace onnxfold {

struct LayerParts {
  std::int64_t parts = 0;  // that it has
  std::vector<double>
      cost;  // relative squared error of its output behind each removal, the cheapest first; may be empty
};

// The same share of every layer, rounded down.
std::vector<std::int64_t> uniform_removals(const std::vector<LayerParts>& layers, double ratio);
// `total` in all: again and again the cheapest next removal of any layer, never past the costs that are known.
std::vector<std::int64_t> cheapest_removals(const std::vector<LayerParts>& layers, std::int64_t total);

}  // namespace onnxfold
