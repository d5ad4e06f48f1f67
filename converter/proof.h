// The check between a pass pipeline and the file on disk: both models on the same data, and the gates.
#pragma once

#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "analysis/compare/metrics.h"
#include "converter/gates.h"
#include "ir/model.h"
#include "passes/pass.h"

namespace onnxfold {

struct Proof {
  Comparison comparison;
  std::vector<GateResult> gates;
  bool passed = true;
  std::string why;  // which gates were chosen and on what grounds; after a failure, what failed and where
};

// Compares `after` with `before` on `data`: in float64 when the passes claim to be exact or rounding, else in float32,
// against `user_gates`, or the default gates of `exactness` when there are none. A failed gate is no error: see passed.
// Errors: whatever compare_models reports.
Result<Proof> prove(const Model& before, const Model& after, const Dataset& data, const Gates& user_gates,
                    Exactness exactness);

}  // namespace onnxfold
