// Operators that leave the last axis of their input whole.
#pragma once

#include "ir/graph.h"

namespace onnxfold {

// Does every row (`width` numbers along the last axis) of every output of `node` hold a row of input 0, in the same
// order, or (ReduceMean) the mean of some? Then any affine map of rows may be moved past the node. Reshape and its like
// must have known last dimensions, others a known rank.
bool keeps_last_axis(const Node& node, std::int64_t width);

}  // namespace onnxfold
