// Models that a merged model must beat to have gained anything from its parents.
#pragma once

#include <memory>
#include <vector>

#include "ir/model.h"

namespace onnxfold {

// The anchor (last parent) with half of every weight in which the parents differ, norms untouched: what is left when a
// merge averages the partner away. Knows nothing of the other parents. Errors: those of correspond().
Result<std::unique_ptr<Model>> half_anchor(const std::vector<const Model*>& parents);

}  // namespace onnxfold
