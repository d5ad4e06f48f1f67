// Gates: limits on a Comparison that decide whether the result may be written.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/compare/metrics.h"
#include "passes/pass.h"

namespace onnxfold {

struct Gates {
  std::optional<double> max_abs, max_rel_l2, min_cosine, min_sqnr, max_kl, min_top1;
  std::optional<double> max_accuracy_drop;        // points, 0..1 scale: 0.01 is one percent
  std::optional<double> max_perplexity_increase;  // percent
  bool empty() const;
};

struct GateResult {
  std::string gate;    // "max-rel-l2"
  std::string output;  // or "task"
  double limit = 0, measured = 0;
  bool passed = true;
  std::string detail;
};

// The gate a run gets when the user named none: from the loosest exactness of the passes that ran. Says which in `why`.
Gates default_gates(Exactness exactness, const Comparison& comparison, std::string& why);
// The same for rounding passes whose algebra was measured apart from the rounding of folded weights (see
// converter/in_double.h): `half_weights` when any weight is stored in 16 bits, whose rounding moves the outputs
// further.
Gates rounded_weights_gates(bool half_weights, std::string& why);
// NaN or infinity where the original has none, and differing shapes, always fail.
std::vector<GateResult> check_gates(const Gates& gates, const Comparison& comparison);

}  // namespace onnxfold
