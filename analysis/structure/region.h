// Region: the nodes between one value and another, walked backwards until all paths meet again.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

struct Region {
  Value* source = nullptr;   // where the paths meet
  std::vector<Node*> nodes;  // in topological order
};

// The inputs of a node that carry data; nullopt: the node does not belong into the region.
using DataInputs = std::function<std::optional<std::vector<Value*>>(const Node&)>;
// The smallest region that makes `value`, whose nodes `inputs` admits and whose source `accept` takes. None when a path
// ends (no producer, a node that is not admitted) or after `limit` nodes.
std::optional<Region> converge(Value* value, const DataInputs& inputs, const std::function<bool(const Region&)>& accept,
                               std::size_t limit = 40);

// Sorts by place in the graph and drops repetitions.
void sort_nodes(std::vector<Node*>& nodes);
// The one node that reads `value` for its data: readers of its shape only are not counted, nor is an output of the
// graph. Null when none or several do.
Node* data_reader(const Value* value);

}  // namespace onnxfold
