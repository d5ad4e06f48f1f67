// Match helpers shared by passes: fusion safety lives here and not in each pass.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

// The node that makes `value`, when it is `op_type` and `value` has exactly one use, that use is a node of the same
// graph (not a graph output, not a capture). Null otherwise: fusing it away would lose or duplicate work.
Node* sole_producer(const Value* value, std::string_view op_type, std::string_view domain = "");
// The one node that reads `value`, under the same conditions. Null otherwise.
Node* sole_consumer(const Value* value);
// The tensor a value always holds, or null (also for null values).
const Tensor* constant(const Value* value);
// A constant holding one element (any rank) as a number; nullopt otherwise.
std::optional<double> scalar_constant(const Value* value);
// Small integer constants (shapes, axes) in order; nullopt when not constant or not integers.
std::optional<std::vector<std::int64_t>> int_constants(const Value* value);
// Erases `node` and then, transitively, producers and initializers in its graph that only it used.
void erase_with_dead_inputs(Graph& graph, Node& node);
// Adds an initializer next to its kind; `hint` is made unique.
Value* add_constant(Graph& graph, Tensor tensor, std::string_view hint);
// Makes `replacement` stand for output 0 of `node` and erases the node. When the public name forbids it (an input or
// initializer would have to become a graph output), inserts an Identity instead or, if `node` is already one, returns
// false. REQUIRES: the other outputs of `node` are unused.
bool replace_and_erase(Graph& graph, Node& node, Value& replacement);
// What two descriptions of the same value say together; `preferred` wins where both speak.
Type refined_type(const Type& preferred, const Type& other);

}  // namespace onnxfold
