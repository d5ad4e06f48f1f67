// com.microsoft Attention, which holds the weights of q, k and v: several side by side made one with all heads.
#pragma once

#include <string>
#include <vector>

#include "passes/reparam/attention/attention_merger.h"

namespace onnxfold {

// Why it cannot be one of several, or nothing.
std::string packed_attention_problem(const Attention& attention);
// The first of the group takes the others in: [q | k | v] of its weight and bias get the columns of all, its output
// Linear their rows. Scales and norms that differ go into the weights. REQUIRES: no problem, and the same widths of
// heads, masks and attributes.
Status merge_packed_attentions(Graph& graph, const std::vector<AttentionBranch>& group);

}  // namespace onnxfold
