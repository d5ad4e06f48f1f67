// Shared weights and corrections solved anew for what the tied model feeds them.
//
// fit_group() solves every group on the inputs of the original. In the tied model these inputs are others, and what the
// groups in front got wrong is still in the stream. So, front to back: the tied model runs, and the shared weight, the
// corrections and biases of one group are solved for what the original computes there; writers to the stream aim at the
// original's stream, and so make up for what is missing before them (student inputs, teacher targets: stream_refit.h).
// A group keeps its old numbers unless the new ones do better on rows held out and the whole model does on what it is
// judged by.
#pragma once

#include <string>
#include <vector>

#include "analysis/compare/damage.h"
#include "passes/tie/tie_group.h"

namespace onnxfold {

struct TiedRefit {
  int sweeps = 0;                // that were kept
  std::size_t solved = 0;        // groups that were, in these
  double before = 0, after = 0;  // damage
};

// `aligned` holds the groups' Linears, not tied yet, and computes what the original does. Changes `fits` (one a group,
// of these ranks). Groups that lose nothing stay. `data`: rows to fit, and rows held out of it (refit.h); `meter`
// judges the model, best on samples of which no row is fitted (sample_split.h). Errors: the executor's and solver's.
Result<TiedRefit> refit_tied(const Model& aligned, const std::vector<TieGroup>& groups, const TieOptions& options,
                             const std::vector<std::int64_t>& ranks, const Dataset& data, const DamageMeter& meter,
                             int sweeps, std::vector<SharedFit>& fits);

}  // namespace onnxfold
