// Products that read the same numbers as an embedding table read the table.
#pragma once

#include <optional>

#include "passes/pass.h"

namespace onnxfold {

struct ShareMatrices {
  bool all = false;                 // any constant matrix may be the one that is kept, not only what Gather reads
  std::optional<double> tolerance;  // none: equal bits; else the largest difference over the largest magnitude
};

// Puts a Transpose of the table (or the table itself, where only a tolerance lets them be the same) in the place of
// constants that only MatMul and Gemm read, as their right operand. Compared element by element, never assumed; a
// remark says how far apart those are that were looked at with a tolerance. Says whether anything changed. Errors:
// whatever reading constants reports.
Result<bool> share_matrices(Graph& graph, const ShareMatrices& how, PassContext& context);

}  // namespace onnxfold
