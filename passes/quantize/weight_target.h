// Weights that a weight-only quantizer may take: which node reads which constant in which direction, and why not.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ir/graph.h"
#include "passes/pass.h"
#include "passes/quantize/blockwise.h"

namespace onnxfold {

// What every weight-only method of passes/quantize/ shares.
struct WeightOptions {
  BlockFormat format;
  bool standard = false;  // DequantizeLinear in front of the operator instead of com.microsoft operators
  bool gather = true;
  std::int64_t accuracy_level = 4;
  std::int64_t min_elements = 1024;
  std::vector<std::string> include, exclude;  // globs over names of weights and nodes
};

// Reads bits, block, symmetric, form, accuracy-level, gather, min-elements, include and exclude.
WeightOptions weight_options(const PassOptions& options);

// One weight in the graph and how its node reads it: directly, or behind Identity, Cast between floating types, and
// Transpose of a matrix (a tied head reads the table of the embedding that way).
struct WeightTarget {
  Node* node = nullptr;          // MatMul, Gemm or Gather
  Value* weight = nullptr;       // the constant
  std::size_t input = 1;         // of the node
  DType type = DType::kFloat32;  // of the values that the node reads
  bool table = false;            // Gather
  BlockShape shape;              // rows are the outputs of a product, the entries of a table
};

// Bytes of codes, scales and zero points in the layout that `options` ask for.
std::int64_t quantized_bytes(const WeightTarget& target, const WeightOptions& options);

// The targets of one graph in node order. Every MatMul, Gemm, Conv and Gather with a constant weight that is no target
// gets a remark with the reason; products of two activations and lookups in computed tables get none.
std::vector<WeightTarget> find_weight_targets(const Graph& graph, const WeightOptions& options, PassContext& context);

}  // namespace onnxfold
