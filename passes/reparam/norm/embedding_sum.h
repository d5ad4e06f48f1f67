// com.microsoft EmbedLayerNormalization up to its norm: rows of the tables of words, positions and segments, added.
#pragma once

#include <string>

#include "passes/reparam/chain_builder.h"

namespace onnxfold {

// Why it cannot be written with standard operators, or nothing.
std::string embedding_problem(const Node& node, std::int64_t opset);
// [batch, positions, width]: the sum that is normalised. REQUIRES: no problem.
Value* embedding_sum(ChainBuilder& build, const Node& node);
// int32 [batch]: its second output, how many entries of the mask are 1. REQUIRES: no problem, and that it is read.
Value* embedding_mask_counts(ChainBuilder& build, const Node& node);

}  // namespace onnxfold
