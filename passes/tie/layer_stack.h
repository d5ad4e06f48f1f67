// LayerStack: the blocks of a residual stream as equal layers, whose Linears correspond by their roles.
//
// Roles come from what a Linear does ("attention.q", "ffn.down"; of several sublayers of a kind also their number), not
// from names or places: exporters may order nodes as they like. Linears that no sublayer knows correspond by their
// order.
#pragma once

#include <string>
#include <vector>

#include "analysis/structure/blocks.h"
#include "analysis/structure/linear.h"

namespace onnxfold {

struct LayerStack {
  std::size_t stream = 0;
  std::vector<std::size_t> blocks;           // their numbers, as `inspect` shows them
  std::vector<std::string> roles;            // of the Linears of a layer
  std::vector<std::vector<Linear>> linears;  // by layer, then by role
  // Floating constants of `width` or other equal sizes that each layer reads in the same role: gains and biases of
  // norms, biases of the Linears. By layer, then by place; null where a layer has none.
  std::vector<std::string> vector_roles;
  std::vector<std::vector<Value*>> vectors;
};

// Every stream of two blocks or more whose blocks are equal: kinds of block and sublayers, heads, activations, norms,
// roles and dimensions of their Linears. `first` and `last` blocks of each stream are left out. Notes say which streams
// are none and where their blocks differ.
std::vector<LayerStack> layer_stacks(const Graph& graph, std::size_t first, std::size_t last,
                                     std::vector<StructureNote>* notes = nullptr);

}  // namespace onnxfold
