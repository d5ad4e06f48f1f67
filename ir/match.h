// Questions about values that every matcher asks. They read only.
#pragma once

#include <cstdint>
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
// Does a Transpose of a matrix swap its axes? REQUIRES rank 2.
bool swaps_axes(const Node& transpose);
}  // namespace onnxfold
