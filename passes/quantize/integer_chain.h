// Products and convolutions on integers, taken back to floating point. Part of dequantize.
#pragma once

#include "ir/graph.h"
#include "passes/pass.h"

namespace onnxfold {

// MatMulInteger and ConvInteger of DynamicQuantizeLinear(x) with the Cast and the Mul behind => MatMul and Conv of x;
// com.microsoft DynamicQuantizeMatMul => MatMul; QLinearConv and QLinearMatMul => Conv and MatMul between
// DequantizeLinear and QuantizeLinear. Weights are constant and become floats. What is of these and was not understood
// gets a remark. Value: did anything change.
Result<bool> expand_integer_operators(Graph& graph, PassContext& context);

}  // namespace onnxfold
