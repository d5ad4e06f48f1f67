// What lies between convolutions of 8 bits and can work on their codes too: sums, products of two values, pools,
// activations, joins, and whatever only moves numbers. ONNX Runtime has kernels for exactly these (QLinearAdd,
// QLinearMul, QLinearConcat, QLinearAveragePool, QLinearGlobalAveragePool, QLinearLeakyRelu, QLinearSigmoid,
// QLinearSoftmax, QLinearWhere) or drops the rounding around them where scale and zero point stay the same.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "passes/quantize/int8_target.h"

namespace onnxfold {

// The range that a Relu or Clip behind a result leaves; no bound: infinity.
struct ClipRange {
  double low, high;
};

// `value`, or what the Relu or Clip makes of it that alone reads it and that a quantized result absorbs (the range
// holds 0). `range`, when given, is set where there is one.
Value* absorbed_result(Value& value, std::optional<ClipRange>* range = nullptr);

struct FlowNode {
  Node* node = nullptr;
  std::vector<std::size_t> operands;  // inputs that are read as codes
  bool moves = false;                 // results keep scale and zero point of operand 0; else they have their own
};

// In node order. A node is in it when one of its operands is the result of a convolution of `targets` or of another
// node of the flow, the others can be rounded (`known`: is there a range of the value; constants: 8 bits change them
// by 1 % at most), and some target or pool reads, at last, what it makes: nothing is rounded that no one needs in
// codes.
std::vector<FlowNode> find_integer_flow(const Graph& graph, const std::vector<Int8Target>& targets,
                                        const std::function<bool(const Value&)>& known);

}  // namespace onnxfold
