// What a Linear stores, without its graph: weights that are loaded when they are needed, and given back.
#pragma once

#include "analysis/algebra/matrix.h"
#include "analysis/structure/linear.h"

namespace onnxfold {

struct StoredWeight {
  Tensor tensor;  // [in, out], or [out, in]
  std::int64_t in = 0, out = 0;
  bool out_in = false;
  double alpha = 1;  // factor of the product

  // alpha W [in, out]. Mapped weights are read in ranges whose pages are given back at once. Errors: those of loading.
  Result<Matrix> matrix() const;
};

StoredWeight stored_weight(const Linear& linear);

}  // namespace onnxfold
