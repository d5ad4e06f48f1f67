// What a merged model is worth: parents, their ensemble, controls and the result on the same data, side by side.
#pragma once

#include <vector>

#include "converter/make_merged.h"
#include "converter/proof.h"

namespace onnxfold {

// Controls: the plain average, half of the anchor alone, and every aligned parent alone (taken out of `merged`). Fills
// in rows, task and verdict of `facts`. The proof's gates are measured against the better parent. `weights`: of the
// parents. REQUIRES sources.data. Errors: those of running, with "scoring" in front.
Result<Proof> score_merge(const MergeOptions& options, const MergeSources& sources, const std::vector<double>& weights,
                          Merged& merged, MergeFacts& facts);

}  // namespace onnxfold
