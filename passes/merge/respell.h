// A model written with another model's graph: the same function, its weights in the other's places.
//
// Exporters spell one architecture in many ways (GELU as one operator or five, Gemm or MatMul and Add, weights
// transposed, q, k and v in one Linear or three). Both graphs are walked backwards from their outputs over what they
// have in common (UnitView); every weight is written where, and how, the anchor has it.
#pragma once

#include <memory>

#include "ir/model.h"
#include "ir/result.h"

namespace onnxfold {

// The anchor's graph with the weights of `model`. REQUIRES types of both. What has no weights (masks, rotary tables,
// shapes) is the anchor's: the caller checks that both compute the same. Errors: invalid_argument, naming the place
// where the two differ, and how.
Result<std::unique_ptr<Model>> respelled(const Model& model, const Model& anchor);

}  // namespace onnxfold
