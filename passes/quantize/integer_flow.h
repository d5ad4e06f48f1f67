// What lies between convolutions of 8 bits and can work on their codes too: sums, products of two values, pools,
// activations, joins, and whatever only moves numbers. ONNX Runtime has kernels for exactly these (QLinearAdd,
// QLinearMul, QLinearConcat, QLinearAveragePool, QLinearGlobalAveragePool, QLinearLeakyRelu, QLinearSigmoid,
// QLinearSoftmax, QLinearWhere) or drops the rounding around them where scale and zero point stay the same.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "passes/quantize/int8_target.h"
#include "passes/quantize/rounded_result.h"

namespace onnxfold {

struct FlowNode {
  Node* node = nullptr;
  std::vector<std::size_t> operands;  // inputs that are read as codes
  bool moves = false;                 // results keep scale and zero point of operand 0; else they have their own
};

using GridsByName = std::map<std::string, Uint8Grid>;  // of the values whose range is known

struct IntegerFlow {
  std::vector<FlowNode> nodes;                    // in node order
  std::map<const Value*, RoundedResult> results;  // of convolutions and of nodes that do not move; looked up only
};

// A node is in it when one of its operands is the result of a convolution of `targets` or of another node of the flow,
// the others can be rounded (there is a grid for them; constants: 8 bits change them by 1 % at most), and some target
// or pool reads, at last, what it makes: nothing is rounded that no one needs in codes. `grids` null: as if there were
// one for every value that suits all (to learn whose range is wanted: rounded_results() of each result, and operands).
IntegerFlow find_integer_flow(const Graph& graph, const std::vector<Int8Target>& targets, const GridsByName* grids);

}  // namespace onnxfold
