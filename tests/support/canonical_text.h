// Text of a model in which names of inner values do not matter: equal texts mean isomorphic models.
#pragma once

#include <string>

#include "ir/model.h"

namespace onnxfold::test {

// Nodes in depth-first order from the outputs (dead ones last), inner values numbered, small constants by value, larger
// ones by hash, types with element type and known dimensions.
std::string canonical_text(const Model& model);

}  // namespace onnxfold::test
