// Where the channels of a value are after a node that only moves or averages positions.
#pragma once

#include <cstdint>
#include <optional>

#include "ir/graph.h"

namespace onnxfold {

// The axis of `node`'s output that holds the channels which axis `axis` of its first input holds, every output being a
// convex combination (a copy, an average) of inputs of the same channel: Transpose, Reshape, Flatten, Squeeze,
// Unsqueeze, Identity, pools that read no padding and means over positions. Nullopt for any other node.
std::optional<std::int64_t> channel_axis_after(const Node& node, std::int64_t axis);

}  // namespace onnxfold
