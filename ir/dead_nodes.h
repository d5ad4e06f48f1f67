// Dead nodes: those that compute what nothing reads.
#pragma once

#include "ir/graph.h"

namespace onnxfold {

// Erases, last to first, the nodes none of whose outputs are read, and initializers that nothing reads. Inputs and
// outputs of the graph stay. Says whether anything went.
bool erase_dead_nodes(Graph& graph);

}  // namespace onnxfold
