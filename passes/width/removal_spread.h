// How many parts (neurons, heads) each layer loses.
#pragma once

#include <cstdint>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

// Elements of all floating constants.
std::int64_t float_parameters(const Graph& graph);

struct LayerParts {
  std::int64_t parts = 0;  // that it has
  // Relative squared error of its output behind each removal, the cheapest first; may be empty.
  std::vector<double> cost;
  std::int64_t parameters = 0;  // of one part
};

// The same share of every layer, rounded down.
std::vector<std::int64_t> uniform_removals(const std::vector<LayerParts>& layers, double ratio);
// `total` in all: again and again the cheapest next removal of any layer, never past the costs that are known.
std::vector<std::int64_t> cheapest_removals(const std::vector<LayerParts>& layers, std::int64_t total);

// Enough to take out this many parameters, whatever the layers' sizes: again and again the removal that costs the least
// error for each parameter. `together` parts of a layer go at a time (a layer whose parts it does not divide loses the
// rest first), one such lot always stays. Layers without costs lose equal shares.
std::vector<std::int64_t> removals_of_parameters(const std::vector<LayerParts>& layers, std::int64_t parameters,
                                                 std::int64_t together = 1);

}  // namespace onnxfold
