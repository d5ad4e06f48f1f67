// Function bodies made concrete for one call.
#pragma once

#include <memory>

#include "ir/model.h"

namespace onnxfold {

// The function a node calls, or null: model-local functions by (domain, op_type, overload).
const Function* find_function(const Model& model, const Node& node);

// A copy of the function's body with attribute references replaced by the call's attributes, then the function's
// defaults, else dropped. The copy is a free-standing Graph whose opset imports are the function's.
// Errors: corrupt, when a required attribute is missing.
Result<std::unique_ptr<Graph>> instantiate(const Function& function, const Node& call);

}  // namespace onnxfold
