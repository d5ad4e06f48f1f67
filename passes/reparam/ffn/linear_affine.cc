#include "passes/reparam/ffn/linear_affine.h"

#include "passes/reparam/parallel/branch_input.h"

namespace onnxfold {

Result<LinearAffine> affine_of(const Linear& linear, const Norm* fold) {
  LinearAffine affine;
  OF_ASSIGN(affine.weight, weight_matrix(linear));
  OF_ASSIGN(affine.bias, bias_vector(linear));
  affine.biased = linear.bias != nullptr;
  if (fold != nullptr) {
    OF_TRY(fold_affine(*fold, affine.weight, affine.bias));
    affine.biased = affine.biased || fold->bias != nullptr;
  }
  return affine;
}

}  // namespace onnxfold
