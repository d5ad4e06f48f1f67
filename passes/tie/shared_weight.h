// Linears that read one constant, and the low-rank corrections beside them.
#pragma once

#include <vector>

#include "analysis/structure/linear.h"

namespace onnxfold {

// Puts one constant in the place of the weights of all of them. `weight` is [in, out] with every alpha applied (alpha
// is reset to 1); it is stored as the products read it: [out, in] where all of them transpose. Old constants that
// nothing reads any more are erased. REQUIRES equal dimensions and element types, and all in this graph. Returns the
// constant.
Value* share_weight(Graph& graph, const std::vector<Linear>& linears, const Tensor& weight);

// Another bias for one that has one, in its element type and shape. REQUIRES linear.bias and as many numbers as it has.
// Errors: unsupported, when the product takes nothing of its bias (beta 0).
Status replace_bias(Graph& graph, const Linear& linear, const std::vector<double>& bias);

// y => y + (x A) B beside the Linear: MatMul, MatMul, Add behind its bias (as adapters are exported). The types of A
// and B are that of the weight.
Status add_correction(Graph& graph, const Linear& linear, Tensor a, Tensor b);

}  // namespace onnxfold
