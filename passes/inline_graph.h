// Copies the body of a subgraph or function in front of the node that calls it.
#pragma once

#include <unordered_map>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

using ValueMap = std::unordered_map<const Value*, Value*>;

// Copies initializers and nodes of `body` into `target` before `before`. `map` says what stands for the body's inputs
// (null: omitted) and is extended by every copied value; what it names already is not copied again; values of enclosing
// graphs stand for themselves. Names are made unique. Returns what stands for the body's outputs.
std::vector<Value*> inline_graph(Graph& target, const Graph& body, Node& before, ValueMap& map);

// A copy of an attribute that may hold graphs, for a node of `target`: values they capture are replaced by `map`, which
// is extended by what is copied.
Attribute cloned(const Attribute& attribute, Graph& target, ValueMap& map);

// Makes `results` stand for the outputs of `node` (through Identity nodes where a public name needs one) and erases it.
void replace_by(Graph& graph, Node& node, const std::vector<Value*>& results);

}  // namespace onnxfold
