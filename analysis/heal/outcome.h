// What repairs come to at the outputs.
//
// Values that each come nearer to the original do not always bring the outputs nearer: errors that made each other good
// may stop doing so when one is mended alone, and a norm makes good a stream that is small as a whole but not one whose
// mean alone was restored.
#pragma once

#include <vector>

#include "analysis/calibrate/dataset.h"
#include "ir/model.h"

namespace onnxfold {

// Damage (damage.h; KL where outputs are scores) of each model beside the original, on rows that fits hold out and at
// positions that count; at most 16 batches. Errors: those of the executor.
Result<std::vector<double>> held_out_damage(const Model& original, const Dataset& data,
                                            const std::vector<const Model*>& models);

}  // namespace onnxfold
