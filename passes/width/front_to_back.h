// After all weights of a model were changed: Linears solved anew front to back, kept when the model does better.
#pragma once

#include <memory>
#include <string>

#include "analysis/calibrate/dataset.h"
#include "ir/model.h"

namespace onnxfold {

// Refits the Linears of `student` towards `teacher` on the data (analysis/heal/stream_refit.h) and keeps that when the
// damage on the data is less. Returns what happened, for the report. Errors: the executor's and solver's.
Result<std::string> refit_front_to_back(Model& student, const Model& teacher, const Dataset& data, bool refit);

}  // namespace onnxfold
