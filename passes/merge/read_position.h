// Which position the outputs read.
#pragma once

#include <cstdint>
#include <optional>

#include "ir/graph.h"

namespace onnxfold {

// The index on axis 1 (of values [batch, positions, channels]) that every path to the outputs takes one position at:
// the class token of classifiers. None when the outputs read several (language models, means over positions), or
// nothing was understood. REQUIRES types.
std::optional<std::int64_t> read_position(const Graph& graph);

}  // namespace onnxfold
