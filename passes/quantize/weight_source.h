// Where the weights of a node lie, of any operator that has some.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ir/graph.h"
#include "ir/model.h"

namespace onnxfold {

// float32, float16, bfloat16 or float64.
bool quantizable_type(DType dtype);

// The constant behind Identity, Cast between floating types and Transpose of a matrix, and whether the way to it
// transposes; null where there is none.
struct WeightSource {
  Value* weight = nullptr;
  bool transposed = false;
};
WeightSource weight_source(Value* value);

// The inputs that hold weights of an operator, most likely first; none: the operator has none that users would count.
std::vector<std::size_t> weight_inputs(const Node& node);

// What a node that was quantized before says about itself; empty: it was not.
std::string quantized_already(const Node& node);

// Why a node that has weights, or a call of a function with such nodes, cannot be quantized as it stands: the weight is
// computed of constants, stored sparsely, or an input whose default callers may replace; recipe clean puts the first
// and functions into a form that can. Empty: none of that. Weights of less than `min_elements` numbers count as none.
std::string unread_weight(const Node& node, const Model& model, std::int64_t min_elements);

// A matrix of numbers that a node reads and that is no weight of its operator as far as weight_inputs() knows.
struct HeldWeight {
  std::int64_t bytes = 0;
  bool moved = false;  // cut or reshaped before something reads it
};
inline constexpr const char* kMovedWeight = "moves a weight before it is read; recipe clean does that once and for all";
// None where there are fewer than `min_elements` numbers, or where a node with weights reads them as well.
std::optional<HeldWeight> held_weight(const Node& node, std::int64_t min_elements);

}  // namespace onnxfold
