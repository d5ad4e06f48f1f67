// The double twin of a model: every float16, bfloat16 and float32 of it made a double.
//
// A pass that folds weights computes in double and rounds once into the weight's own type, so a float32 model can show
// its algebra only to 1e-7. The same passes over the double twin round nothing away: run in float64, before and after
// agree to 1e-12 or the algebra is wrong.
#pragma once

#include <memory>
#include <optional>

#include "analysis/calibrate/dataset.h"
#include "converter/pipeline.h"
#include "ir/model.h"

namespace onnxfold {

// Weights become deferred doubles (made when read); a lone float32 is read as the number of a formula that it was
// rounded from (ir/intended_number.h), so that sqrt(2) is the same number in a chain and inside an operator. Casts to a
// floating type become casts to double. float8, float4 and what a file's attributes hold as plain numbers (epsilon)
// keep their values. Errors: those of copying constants.
Result<std::unique_ptr<Model>> in_double(const Model& model);

// The same numbers for the twin's inputs.
Result<Dataset> in_double(const Dataset& data);

// The largest relative L2 error of any output when `recipe` runs over the double twin of `before`, on `data`, in
// float64. None when the twin does not come out with the operators of `after`: then it says nothing about `after`.
// Errors: those of the executor.
Result<std::optional<double>> error_in_double(const Model& before, const Model& after, const Recipe& recipe,
                                              const Dataset& data, const PipelineOptions& pipeline);

}  // namespace onnxfold
