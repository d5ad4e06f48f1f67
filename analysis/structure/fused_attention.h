// Attention as one operator. Internal to analysis/structure.
#pragma once

#include "analysis/structure/projection.h"

namespace onnxfold {

// com.microsoft Attention, MultiHeadAttention, GroupQueryAttention and ai.onnx Attention. A note when it is one of them
// but not understood.
std::optional<Attention> match_fused_attention(Node& node, StructureContext& context, StructureNote& note);

// What follows from the parts: inputs, output, nodes, rotary, cross, causal.
void complete_attention(Attention& attention);

}  // namespace onnxfold
