// After all weights of a model were changed: Linears solved anew front to back, kept when the model does better.
#pragma once

#include "ir/model.h"
#include "passes/pass.h"

namespace onnxfold {

// Makes the student, a changed clone, the graph of the context's model. With calibration data its Linears are first
// refitted towards the model as it was (analysis/heal/stream_refit.h), which is kept when the damage on the data is
// less; what happened is noted. Errors: the executor's and solver's.
Status adopt_refitted(PassContext& context, Model& student, bool refit);

}  // namespace onnxfold
