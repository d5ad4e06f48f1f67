// What a model loses when one weight alone is stored in few bits, measured at its outputs.
//
// One copy of the model is stepped through the data; in front of the first reader of each weight it forks, reads the
// rounded weight instead, and runs to the end, so that what lies in front of a weight runs once for all. Measured are
// 2 and 4 bits; other formats follow from the squared error of the rounded weight, to which small damages are
// proportional. Errors of single layers are no substitute: allocating by them is worse than uniform bits.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "passes/quantize/bit_allocation.h"
#include "passes/quantize/weight_target.h"

namespace onnxfold {

struct FormatDamage {
  BlockFormat format;
  std::int64_t bytes = 0;   // of codes, scales and zero points
  double weight_error = 0;  // squared error of the rounded weight over its square
  double damage = 0;        // rise of the KL divergence, or of the squared relative error of the outputs
  bool measured = false;    // at the outputs; else derived
};

struct WeightSensitivity {
  std::string weight, node;  // its name; label of its first reader
  std::int64_t elements = 0, bytes = 0;
  std::vector<FormatDamage> formats;  // those that can store it
};

struct SensitivityOptions {
  WeightOptions weights;             // all but the format
  std::vector<BlockFormat> formats;  // to be told about
  BlockRule rule = choose_rtn_search;
  bool norms = true;                          // rules know the norm in front of a weight (norm_importance.h)
  std::function<void(double done)> progress;  // 0..1; may be empty
};

struct Sensitivity {
  std::string kind;                        // "KL", "squared error", or "weights": nothing was run
  std::vector<WeightSensitivity> weights;  // in the order in which the model reads them
  double forward_passes = 0;               // of the whole model, in nodes that ran
};

// Products and tables only (WeightUse::kProduct, kTable). `data` null: damage is the weight error of each weight
// (kind "weights"), which says little. Weights that only subgraphs read are derived from the others. Errors: the
// executor's; invalid_argument for weights that are not finite.
Result<Sensitivity> measure_sensitivity(const Model& model, const Dataset* data, const SensitivityOptions& options);

}  // namespace onnxfold
