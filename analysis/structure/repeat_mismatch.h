// Why parts of a graph that look like blocks in a row are none, in words. Internal to analysis/structure.
#pragma once

#include <string>

#include "ir/graph.h"

namespace onnxfold {

// Node `later` stands where an earlier block has `earlier`, of another operation or with results of other types.
std::string different_nodes(const Node& later, const Node& earlier);

// They read different things in one place.
std::string different_inputs(const Node& later, const Node& earlier, const Value* read, const Value* read_earlier);

}  // namespace onnxfold
