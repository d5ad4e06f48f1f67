// The recipe for a budget: --target-size, --target-bits (least damage that fits) and --auto (least size that passes).
#pragma once

#include <optional>

#include "converter/gates.h"
#include "converter/mixed_formats.h"
#include "converter/report.h"

namespace onnxfold {

struct BudgetGoal {
  std::optional<std::int64_t> size;  // bytes of the file
  std::optional<double> bits;        // a weight, with scales and zero points, over the weights that can be quantized
  bool automatic = false;            // the smallest file that passes the gates
  bool any() const { return size || bits || automatic; }
};

struct BudgetOptions {
  BudgetGoal goal;
  Gates gates;  // of `automatic`; empty: the default of lossy work
  const Model* before = nullptr;
  Recipe recipe;
  std::string source_hash;
  const Dataset* calibration = nullptr;  // what sensitivities and candidates learn from; null: none
  const Dataset* learned = nullptr;      // what the chosen recipe will learn from, so that gates see the result itself
  const Dataset* data = nullptr;         // what the gates are measured on
  SaveOptions save;
  std::uint64_t seed = 0;
  std::function<void(const std::string& phase, double done)> progress;
};

struct BudgetChoice {
  Recipe recipe;
  BudgetFacts facts;
};

// Size or bits: sensitivities are measured on one half of the calibration data; mixed formats, the best uniform ones
// and those with the rest of the budget spent on some weights are then built and judged on the other half by the KL
// divergence (or error) of their outputs, and the least one is taken, uniform where it is as good. Without calibration
// data generated inputs take its place, and a model that cannot be run is judged by its weights alone; the facts say
// so. Automatic: a bisection over budgets, each judged by the gates on `data`; when none passes the recipe without its
// quantizer is taken. Errors: invalid_argument when the budget is below what 2 bits need, naming the least.
Result<BudgetChoice> choose_for_budget(const BudgetOptions& options);

// Every other batch from `first` on, without the targets of the data (labels, next tokens).
Dataset half_of(const Dataset& data, std::size_t first);

}  // namespace onnxfold
