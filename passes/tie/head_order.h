// Attention heads of layers, put in the order of another layer's.
#pragma once

#include <vector>

#include "ir/model.h"

namespace onnxfold {

// Reorders the heads of the attentions of these blocks (their numbers in find_blocks) so that they follow those of the
// block before in the list: best assignment on what q, k, v and the output Linear hold for each head. Grouped queries
// move with their keys and values, and within their group. `rotate`: channels inside of heads turn too, of q against k
// and of v against the output Linear (orthogonal Procrustes), as far as rotary positions (phases of pairs) and norms
// leave them free. Exact as permutations; rotations round once. Attentions whose heads something tells apart (masks of
// their own, caches, norms over all heads), packed weights of fused operators and constants that something else reads
// are left alone. Returns how many attentions changed. Errors: those of reading weights.
Result<int> align_heads(Model& model, const std::vector<std::size_t>& blocks, bool rotate);

}  // namespace onnxfold
