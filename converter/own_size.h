// --target-size for a pass that can choose its own size: one with an option target-size (tie-layers: the ranks of its
// corrections), in a recipe that has no quantizer.
#pragma once

#include <optional>

#include "converter/budget.h"

namespace onnxfold {

// The recipe with that option set so that the file has at most goal.size bytes, and not much less where the pass can be
// that large (the names of corrections that it does without). Sizes are found by running the recipe with the cheapest
// fit and predicting the file, so nothing is learned or written. Nullopt: no such pass, one whose size is given already
// (rank, ranks, target-size), or a quantizer, which then chooses formats as ever. An option `ratio` gives way.
// Errors: invalid_argument when the pass cannot make the file that small, naming the least and what would help.
Result<std::optional<BudgetChoice>> choose_own_size(const BudgetOptions& options);

}  // namespace onnxfold
