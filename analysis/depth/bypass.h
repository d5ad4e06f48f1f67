// Taking a unit out of the residual stream: a whole block, or its attention or feed-forward sublayer.
#pragma once

#include <string>
#include <vector>

#include "analysis/structure/blocks.h"

namespace onnxfold {

struct StreamUnit {
  enum class Part { kBlock, kAttention, kFeedForward };

  Part part = Part::kBlock;
  std::size_t block = 0;    // index into BlockView::blocks
  Value* before = nullptr;  // putting this in the place of `after` takes the unit out
  Value* after = nullptr;
  std::vector<Node*> nodes;  // what serves the unit alone
  std::string label;         // "block 3", "attention of block 3"
};

// Every unit of this kind that can be taken out. Of a post-norm block the sublayer goes with the norm behind it. Notes
// say which cannot and why: the stream after it is not kept, its shape changes, two sublayers share one Add.
std::vector<StreamUnit> removable_units(const Graph& graph, const BlockView& view, StreamUnit::Part part,
                                        std::vector<StructureNote>* notes = nullptr);

// Readers of the unit's output read its input from now on; nothing is erased. A fused SkipLayerNormalization whose norm
// is read as well leaves a norm of the input. Errors: unsupported, when that norm cannot be written at this opset.
Status bypass(Graph& graph, const StreamUnit& unit);
// The unit of a copy of the graph. REQUIRES that names are the same there.
StreamUnit unit_in(const Graph& copy, const StreamUnit& unit);

}  // namespace onnxfold
