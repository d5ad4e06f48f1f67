// TieGroup: the Linears of one role that come to share a weight, and how that weight is found.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "analysis/calibrate/statistics.h"
#include "passes/tie/correction_ranks.h"
#include "passes/tie/layer_stack.h"
#include "passes/tie/loop_plan.h"
#include "passes/tie/shared_fit.h"

namespace onnxfold {

enum class TieStart { kAverage, kWeighted, kStepwise, kLower };
enum class TieFactors { kSvd, kWhitened, kClosed, kAlternate };

struct TieGroup {
  std::string role;
  std::vector<std::size_t> blocks;  // of the members, as `inspect` shows them
  std::vector<Linear> linears;      // of the members
  Linear stepwise, lower;           // what these starts take
};

struct TieOptions {
  TieStart start = TieStart::kAverage;
  TieFactors factors = TieFactors::kSvd;
  int rounds = 5;
};

// Groups of a stack, in order of unique layers, then roles. Weights that are one already make none. Errors: those of
// looped_layers().
Result<std::vector<TieGroup>> tie_groups(const LayerStack& stack, Looping looping, std::size_t loops);

// Statistics of the inputs of Linears, by name; empty without data.
using InputStatistics = std::map<std::string, ValueStatistics>;

// Loads the weights. Without statistics of all inputs of the group: plain.
Result<SharedFitter> fitter_of(const TieGroup& group, const InputStatistics& statistics);
// The sizes alone.
CorrectionCurve sizes_of(const TieGroup& group);
// And what corrections of every rank would leave, with the shared matrix as the start has it.
Result<CorrectionCurve> curve_of(const TieGroup& group, const InputStatistics& statistics, const TieOptions& options);
// Corrections of residuals that are zero are left out (empty matrices). `error` becomes a share of the outputs (or of
// the weights): the root of what is left over the root of all.
Result<SharedFit> fit_group(const TieGroup& group, const InputStatistics& statistics, const TieOptions& options,
                            std::int64_t rank);

// Corrections of one role get the highest rank that one of them has, filled with zeros: blocks stay equal, so that
// roll-layers can make a body of single blocks. Returns how many were filled. REQUIRES a fit for each group.
std::size_t pad_corrections(const std::vector<TieGroup>& groups, std::vector<SharedFit>& fits);

// Puts shared weights and corrections into a graph (the group's own or a copy with the same names).
Status apply_fit(Graph& graph, const TieGroup& group, const SharedFit& fit);

}  // namespace onnxfold
