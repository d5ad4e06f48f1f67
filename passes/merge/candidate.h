// Merged models made with different settings, of which the one is kept that comes closest to the parents' ensemble on
// the calibration data: no labels are looked at.
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
  bool move_images = false;  // was it repaired on moved images too?
};

// Averages what is aligned and the anchor (the last parent), then repairs that by the options `repair`, `damping`,
// `target`, `rounds` and `augment`: nothing without calibration data.
Status average_and_repair(Candidate& candidate, const WholeMergeInput& input, const PassOptions& options);
// Moves the best of the candidates into `result` and notes how all of them did. REQUIRES calibration data when there
// are several.
Status take_best(std::vector<Candidate>& candidates, const WholeMergeInput& input, WholeMerge& result);

}  // namespace onnxfold
