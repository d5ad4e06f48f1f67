// What nodes compute, apart from what they read: nodes of one operation differ in their operands only.
//
// Two nodes are of one operation when operator, attributes (tensors by content), the pattern of omitted inputs and
// outputs, and bodies of subgraphs are equal. A node's operands are its inputs and then, each once, the values of
// enclosing graphs that its subgraphs read, in the order in which they are met.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

class Operations {
 public:
  explicit Operations(const Graph& graph);

  // Equal numbers: one operation. -1: not to be compared (tensors that cannot be read, parts that the IR does not
  // model, random numbers). REQUIRES: a node of the graph.
  int of(const Node& node) const { return entries_.at(&node).operation; }
  const std::vector<Value*>& operands(const Node& node) const { return entries_.at(&node).operands; }

 private:
  struct Entry {
    int operation = -1;
    std::vector<Value*> operands;
  };

  std::unordered_map<const Node*, Entry> entries_;
};

}  // namespace onnxfold
