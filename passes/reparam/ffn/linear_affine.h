// A Linear's numbers with what is folded into them.
#pragma once

#include <vector>

#include "analysis/structure/linear.h"
#include "analysis/structure/norm.h"

namespace onnxfold {

struct LinearAffine {
  Matrix weight;  // [in, out]
  std::vector<double> bias;
  bool biased = false;  // whether there is a bias at all
};

// With gain and bias of the norm before it, if one is given.
Result<LinearAffine> affine_of(const Linear& linear, const Norm* fold);

}  // namespace onnxfold
