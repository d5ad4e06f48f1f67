// What must be numbers before models are compared by them.
#pragma once

#include <string>

#include "analysis/calibrate/dataset.h"
#include "ir/model.h"
#include "ir/result.h"

namespace onnxfold {

// Errors: invalid_argument, naming the weight, the element and what it is. Constants of nothing but zeros and
// infinities are masks.
Status check_finite_weights(const Graph& graph);
// Floating inputs of the batches. Errors: invalid_argument, naming the input, the batch and the element in it.
Status check_finite_inputs(const Dataset& data);

}  // namespace onnxfold
