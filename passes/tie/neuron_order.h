// Hidden neurons of feed-forward layers, put in the order of another layer's.
#pragma once

#include <vector>

#include "ir/graph.h"

namespace onnxfold {

// Reorders the hidden neurons of the feed-forward layers of these blocks (their numbers in find_blocks) so that they
// follow those of the block before in the list: best assignment on incoming and outgoing weights. Exact: what the
// blocks compute stays. Layers with norms between, fused biases, gate and up in one, or constants that something else
// reads are left alone. Returns how many layers were reordered. Errors: those of reading weights.
Result<int> align_neurons(Graph& graph, const std::vector<std::size_t>& blocks);

}  // namespace onnxfold
