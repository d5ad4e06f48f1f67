// verify(): re-derives every invariant of a model from nothing.
#pragma once

#include "ir/model.h"

namespace onnxfold {

// Use lists, topological order, scoping, unique names, initializer byte sizes and types. Errors: internal, naming the
// node or value and the invariant.
Status verify(const Model& model);

}  // namespace onnxfold
