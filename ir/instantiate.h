// Function bodies made concrete for one call.
#pragma once

#include <memory>

#include "ir/model.h"

namespace onnxfold {

// The function a node calls, or null: model-local functions by (domain, op_type, overload).
const Function* find_function(const Model& model, const Node& node);

// A copy of the function's body with attribute references replaced by the call's attributes, then the function's
// defaults, else dropped (an optional attribute nobody gave). The copy is a free-standing Graph that reads the
// function's opset imports: REQUIRES that the function outlives it. Errors: corrupt, when the call has too many inputs
// or outputs.
Result<std::unique_ptr<Graph>> instantiate(const Function& function, const Node& call);

}  // namespace onnxfold
