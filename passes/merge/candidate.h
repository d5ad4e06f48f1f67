// Merged models made with different settings, of which the one is kept that comes closest to the parents' ensemble on
// data that was held out: no labels are looked at.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "passes/merge/method.h"

namespace onnxfold {

struct Candidate {
  std::string name;
  std::unique_ptr<Model> merged;
  std::vector<std::unique_ptr<Model>> aligned;
  std::vector<MergeLayer> layers;
};

// Averages what is aligned and the anchor (the last parent); statistics of BatchNormalizations are those of the data.
Status average_parents(Candidate& candidate, const WholeMergeInput& input);
// Moves the best of the candidates into `result`, repaired by the options `repair`, `damping`, `target`, `rounds`,
// `augment` and `focus` (nothing without calibration data), and notes how all of them did: each repaired on half of
// the batches and scored on the others, then the settings that are left to the data likewise. REQUIRES calibration data
// when there are several.
Status take_best(std::vector<Candidate>& candidates, const WholeMergeInput& input, const PassOptions& options,
                 WholeMerge& result);

}  // namespace onnxfold
