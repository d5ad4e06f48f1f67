// Removes a unit of the residual stream from a model, with what only it needed of the model's interface.
#pragma once

#include <string>
#include <vector>

#include "analysis/depth/bypass.h"
#include "ir/model.h"

namespace onnxfold {

struct RemovedInterface {
  std::vector<std::string> inputs, outputs;
};

// The unit's nodes go, with its key-value cache: outputs that it made (present keys and values) and inputs that nobody
// reads any more (past ones) leave the signature. Inputs that something else still reads (often: the length of a past)
// stay. Errors: those of bypass().
Result<RemovedInterface> remove_unit(Graph& graph, const StreamUnit& unit);

// Bytes of all constants of the graph.
std::int64_t constant_bytes(const Graph& graph);

}  // namespace onnxfold
