// The models of a merge made to correspond, and the data they are scored and aligned on.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "converter/merge_choice.h"

namespace onnxfold {

struct MergeSources {
  std::vector<std::unique_ptr<Model>> parents;  // the last is the anchor
  std::unique_ptr<Model> base;                  // or null
  ValueNames described;                         // of the anchor's file
  std::optional<Dataset> data;                  // to score on
  std::optional<Dataset> calibration;           // for methods that look at whole models

  std::vector<const Model*> views() const;  // of the parents
};

// Fills in `facts.parents`, and notes: what was done to match the models, whether their weights look as if they came
// from one base, what data is used. Errors: those of loading and of match_parents; invalid_argument for NaN and
// infinity.
Result<MergeSources> load_merge_sources(const MergeOptions& options, const MergeChoice& choice, MergeFacts& facts);

}  // namespace onnxfold
