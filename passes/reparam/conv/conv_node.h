// Nodes as convolutions with constant weights (passes/reparam/conv/conv_kernel.h), and back.
#pragma once

#include <optional>
#include <string>

#include "ir/graph.h"
#include "ir/result.h"
#include "passes/reparam/conv/conv_kernel.h"

namespace onnxfold {

// Is this an operator that conv_shape knows: Conv, ConvTranspose, Gemm, AveragePool?
bool is_conv_like(const Node& node);
// The shape of such a node with constant weights: an AveragePool must count its pads, a Gemm multiply by a constant
// matrix and add one number per column. Nullopt otherwise, with the reason in `why`.
std::optional<ConvShape> conv_shape(const Node& node, std::string& why);
// Its numbers. REQUIRES: `shape` is conv_shape(node).
Result<ConvKernel> conv_kernel(const Node& node, const ConvShape& shape);

// Lengths of the spatial axes (from 2 on) of a value.
Lengths spatial_lengths(const Value& value);

// Are all numbers finite after rounding to `dtype`?
bool fits(const ConvKernel& kernel, DType dtype);
// Inserts the node that computes `kernel`: Conv, ConvTranspose or (without spatial axes) Gemm, its numbers rounded once
// to the element type of `input`. Initializers get names that begin with `hint`.
Result<Node*> insert_conv(Graph& graph, const ConvKernel& kernel, Value& input, OutputSpec output,
                          const std::string& hint, const Node* before);

}  // namespace onnxfold
