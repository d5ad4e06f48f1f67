// The upper factor U of an inverse: U'U = (H + lambda I)^-1 with lambda = damping * mean(diag H), U upper triangular.
//
// What second-order methods sweep with (GPTQ, SparseGPT): row i of U says how an error in column i is made good by the
// columns after it. Blocked, with float32 products between blocks and double ones inside them; H is scaled to a unit
// diagonal first, so that outlier channels do not spoil the others. Same bits at any thread count.
#pragma once

#include <vector>

#include "analysis/algebra/matrix.h"
#include "ir/result.h"

namespace onnxfold {

struct InverseFactor {
  std::int64_t size = 0;
  std::vector<float> upper;  // [size, size] row-major; 0 below the diagonal
  double damping = 0;        // what was used: more than asked for where H was not positive definite
};

// Diagonal elements that are 0 (dead inputs) count as the mean. Errors: unsupported, when H holds NaN or infinity or
// stays indefinite at damping 1.
Result<InverseFactor> inverse_factor(const Matrix& gram, double damping);

}  // namespace onnxfold
