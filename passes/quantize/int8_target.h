// Products and convolutions that integer kernels can take: MatMul, Gemm and Conv in float32 with a constant weight.
#pragma once

#include <string>
#include <vector>

#include "ir/graph.h"
#include "passes/pass.h"

namespace onnxfold {

struct Int8Options {
  std::int64_t min_elements = 1024;
  int limit = 127;  // largest code of a weight
  std::vector<std::string> include, exclude;
  bool tables = true;  // table_int8.h takes those it can
};

// Reads min-elements, reduce-range, include, exclude and tables.
Int8Options int8_options(const PassOptions& options);

struct Int8Target {
  Node* node = nullptr;     // MatMul, Gemm (no transA, alpha and beta 1) or Conv
  Value* weight = nullptr;  // the constant: read directly or behind Identity, Cast or Transpose
  bool transposed = false;  // ...which transpose it
  Value* bias = nullptr;    // constant of one number a channel, or null
  std::int64_t axis = 0;    // of the constant: its output channels
  std::int64_t channels = 0;
};

// In node order. Every node with a constant floating-point weight that is no target gets a remark with the reason.
std::vector<Int8Target> find_int8_targets(const Graph& graph, const Int8Options& options, PassContext& context);

// Of a graph that is left alone: a remark for every node with a weight, `why` for those that could be targets.
void name_weights(const Graph& graph, Int8Options options, const std::string& why, PassContext& context);

}  // namespace onnxfold
