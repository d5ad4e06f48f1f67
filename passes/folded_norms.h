// fold-norm-affine for passes that need it first.
#pragma once

#include <map>
#include <string>

#include "passes/pass.h"

namespace onnxfold {

// On the whole model, with the options that `how` gives. Norms that cannot be folded keep their constants and are named
// as skipped. Value: was any folded.
Result<bool> fold_norms(Model& model, PassContext& context, const std::map<std::string, std::string>& how = {});

}  // namespace onnxfold
