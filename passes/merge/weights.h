// Merging models weight by weight into a copy of the anchor.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ir/model.h"
#include "passes/merge/method.h"

namespace onnxfold {

// Weights and settings for the tensors (and the nodes that read them) whose names match a glob; later rules win.
struct MergeRule {
  std::string pattern;
  std::vector<double> weights;  // empty: as they were
  MergeSettings settings;
  bool has_settings = false;
};

struct PlainMerge {
  MergeFunction combine = nullptr;
  std::vector<double> weights;  // one a parent
  MergeSettings settings;
  std::vector<MergeRule> rules;
  std::uint64_t seed = 0;
  std::vector<std::string> names = {};  // of the parents, then of the base, for errors; empty: "model 1", ...
};

// A copy of the last parent whose floating weights are deferred: merged when they are read. `base` is null when there
// is none. The parents must live as long as their tensors need (tensors keep their files open by themselves). A weight
// that is the same bytes in all models stays as it is. Errors: those of correspond(), with the number of the model;
// shapes that differ; integer weights that differ (they are indices or quantized); NaN or Inf in a weight, when it is
// read.
Result<std::unique_ptr<Model>> merge_weights(const std::vector<const Model*>& parents, const Model* base,
                                             const PlainMerge& merge, std::vector<Remark>* remarks = nullptr);

}  // namespace onnxfold
