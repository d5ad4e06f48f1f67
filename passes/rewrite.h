// Match helpers shared by passes: fusion safety lives here and not in each pass.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "ir/graph.h"
#include "ir/match.h"

namespace onnxfold {

// Erases `node` and then, transitively, producers and initializers in its graph that only it used.
void erase_with_dead_inputs(Graph& graph, Node& node);
// Erases `value` and what only it needed, when nothing reads it: an initializer of `graph`, or the node that makes it.
void erase_if_unused(Graph& graph, Value& value);
// Adds an initializer next to its kind; `hint` is made unique.
Value* add_constant(Graph& graph, Tensor tensor, std::string_view hint);
// The transpose of a matrix of known shape, made in front of `before`.
Value* insert_transpose(Graph& graph, const Node& before, Value& matrix);
// Makes `replacement` stand for output 0 of `node` and erases the node. When the public name forbids it (an input or
// initializer would have to become a graph output), inserts an Identity instead or, if `node` is already one, returns
// false. REQUIRES: the other outputs of `node` are unused.
bool replace_and_erase(Graph& graph, Node& node, Value& replacement);
// What two descriptions of the same value say together; `preferred` wins where both speak.
Type refined_type(const Type& preferred, const Type& other);

}  // namespace onnxfold
