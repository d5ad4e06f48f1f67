// Linears of branches that are joined before the nonlinearity of a layer, or after it: summed.
#pragma once

#include "ir/graph.h"
#include "ir/result.h"
#include "passes/pass.h"

namespace onnxfold {

// act(A1 x + A2 x) => act((A1 + A2) x), C1 h + C2 h => (C1 + C2) h; x may be norms with the same statistics, whose
// gains and biases go into the Linears. Value: did anything change.
Result<bool> merge_joined_linears(Graph& graph, PassContext& context);

}  // namespace onnxfold
