// Correspondence: two models of one architecture matched value by value through their graphs, whatever the names.
//
// Both graphs are walked from their outputs (matched by name when the names agree, else by position). Nodes correspond
// when operator, attributes and operands do; operands of Add, Mul and their like may be swapped. Dimensions are not
// compared: widths and floating types may differ, ranks of constants may not. Integer and boolean constants (shapes,
// axes) correspond by place; what they say may differ with the widths. Bodies of If, Loop and Scan are matched node by
// node in their order.
#pragma once

#include <unordered_map>
#include <vector>

#include "ir/model.h"

namespace onnxfold {

struct ConstantPair {
  Value* first = nullptr;  // initializers (an overriding graph input or not) or outputs of Constant nodes
  Value* second = nullptr;
};

struct Correspondence {
  std::vector<ConstantPair> constants;                 // each pair once, in topological order of the second model
  std::unordered_map<const Value*, Value*> first_of;   // second's value -> first's, all that outputs depend on
  std::unordered_map<const Value*, Value*> second_of;  // and the other way
};

// The tensor a value starts with: Value::constant(), or the default of a graph input. Null for others.
const Tensor* parameter(const Value* value);

// Errors: invalid_argument, naming a place where the two differ, and how.
Result<Correspondence> correspond(const Graph& first, const Graph& second);

// Have all constants that correspond the same bits? Errors: those of correspond() and of reading.
Result<bool> same_constants(const Graph& first, const Graph& second);

// Puts `tensor` in the place of a constant; name and readers stay. Returns the value that holds it now. A graph output
// that is a constant itself is left alone (null).
Value* replace_constant(Value& value, Tensor tensor);

}  // namespace onnxfold
