// Which operators compute statistics (sums of squares, means, what is made of them), where half precision is no good.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

// Of `nodes`, in topological order, those that chains of operators use to spell norms and their like, with the reason:
// arithmetic on nothing but results of Reduce operators and constants (mean^2, E[x^2] - mean^2, + epsilon, the root of
// it), and products that only Reduce operators read (x * x). E[x^2] - mean^2 in float16 cancels, and x * x passes 65504
// from 256 on.
std::map<const Node*, std::string> statistics_chains(const std::vector<Node*>& nodes);

}  // namespace onnxfold
