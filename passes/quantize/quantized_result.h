// Results of products and convolutions with a quantized weight, and how a constant is added to each of their channels.
#pragma once

#include <vector>

#include "ir/graph.h"
#include "ir/result.h"

namespace onnxfold {

// The value behind a product and the constant bias that follows it.
struct QuantizedResult {
  Node* product = nullptr;  // MatMulNBits, MatMulInteger, ConvInteger, or MatMul, Gemm, Conv, ConvTranspose of a
                            // dequantized constant
  Node* last = nullptr;     // what makes `value`: the product, the rescaling of an integer one, or an Add behind
  Value* value = nullptr;
  int axis = -1;  // of the channels
};

// All of a graph, in node order.
std::vector<QuantizedResult> find_quantized_results(const Graph& graph);

// Adds `shift`, one number a channel, in the spelling that runtimes fuse: into the constant that is added already, into
// a bias of int32 where the operator has one, into the operator's bias, or by an Add behind it. Names of public and
// inner values stay with what stands in their place. Errors: whatever loading a bias reports.
Status shift_channels(Graph& graph, const QuantizedResult& result, const std::vector<double>& shift);

// `last`'s first output plus `addend`, for all who read it. The name goes to the sum.
void add_behind(Graph& graph, Node& last, Value& addend);

}  // namespace onnxfold
