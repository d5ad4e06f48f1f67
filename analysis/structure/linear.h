// Linear: y = x W + b with a constant W, whatever its spelling.
//
// Recognised: MatMul with a constant right operand (behind a Transpose or not), followed by an Add of a constant bias
// or not; Gemm with either transB (transA = 0); com.microsoft FusedMatMul with a constant right operand. The weight is
// presented as [in, out] in double, alpha and beta of Gemm included.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "analysis/algebra/matrix.h"
#include "ir/graph.h"

namespace onnxfold {

struct Linear {
  Node* product = nullptr;           // MatMul, Gemm or FusedMatMul
  Node* bias_add = nullptr;          // the Add after it; null when the product carries the bias or there is none
  Node* weight_transpose = nullptr;  // a Transpose between constant and product
  Value* input = nullptr;            // [..., in]
  Value* output = nullptr;           // [..., out]
  Value* weight = nullptr;           // the constant as stored
  Value* bias = nullptr;             // constant of `out` elements, or null
  bool stored_out_in = false;        // the constant is [out, in]
  std::int64_t in = 0, out = 0;
  double alpha = 1, beta = 1;  // factors on weight and bias

  std::vector<Node*> nodes() const;  // in order
};

// `value`, or what stands behind Identity nodes: exporters share equal parameters through Identity.
Value* behind_identity(Value* value);
// The Linear whose product is `node`, if it is one. A following Add joins only when nothing else reads the product.
std::optional<Linear> linear_at(const Node& node);
// The Gemm inside com.microsoft FusedGemm, which applies an activation to its result: `output` is behind that.
std::optional<Linear> linear_inside(const Node& node);
// The Linear that makes `value` (bias included), or none.
std::optional<Linear> linear_making(const Value* value);
// All of a graph, in topological order of the products.
std::vector<Linear> find_linears(const Graph& graph);

// [in, out] with alpha applied. Errors: whatever loading the weight reports.
Result<Matrix> weight_matrix(const Linear& linear);
// `out` numbers with beta applied; zeros when there is no bias.
Result<std::vector<double>> bias_vector(const Linear& linear);

// Rounds once into the weight's element type and puts the new weight and bias in the place of the old, in the same
// spelling, alpha and beta reset to 1. `weight` may have other dimensions than before. A null bias keeps what is there
// (REQUIRES the same `out`); a given one adds the Add or the Gemm input when there was none. Constants that nothing
// reads any more are erased. Types of inner values are not updated. Returns the Linear as it is now.
Result<Linear> replace_linear(Graph& graph, const Linear& linear, const Matrix& weight,
                              const std::vector<double>* bias);

}  // namespace onnxfold
