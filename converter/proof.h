// The check between a pass pipeline and the file on disk: both models on the same data, and the gates.
#pragma once

#include <functional>
#include <optional>
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

// Name of the gate on ProofOptions::error_in_double.
inline constexpr const char* kInDoubleGate = "max-rel-l2-in-double";

struct ProofOptions {
  Gates gates;  // empty: the default of `exactness`
  Exactness exactness = Exactness::kLossy;
  // Measures the algebra of rounding passes apart from the rounding of folded weights (converter/in_double.h). Asked
  // only when the outputs differ by more than float64 arithmetic explains and the user set no gate.
  std::function<Result<std::optional<double>>()> error_in_double;
  std::function<void(double done)> progress = nullptr;  // of the comparison, 0..1
  bool fewer = false;  // the result may lack inputs and outputs (caches of removed blocks)
};

// Compares `after` with `before` on `data`: in float64 when the passes claim to be exact or rounding, else in float32
// and without the rows that are padding by a mask input of the data.
// A failed gate is no error: see passed. Errors: whatever compare_models reports.
Result<Proof> prove(const Model& before, const Model& after, const Dataset& data, const ProofOptions& options);

}  // namespace onnxfold
