// Gains and biases of norms, put into the Linears that read them, before layers are tied: then shared weights and
// corrections hold them, and layers keep none of their own.
#pragma once

#include "passes/pass.h"

namespace onnxfold {

// fold-norm-affine on the whole model, also on norms spelled as chains and where a reader gets a bias for it. Norms
// that cannot be folded keep their constants and are named as skipped. Value: was any folded.
Result<bool> fold_norms(Model& model, PassContext& context);

}  // namespace onnxfold
