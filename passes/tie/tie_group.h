// TieGroup: the Linears of one role that come to share a weight, and how that weight is found.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "analysis/calibrate/statistics.h"
#include "passes/tie/correction_ranks.h"
#include "passes/tie/layer_stack.h"
#include "passes/tie/loop_plan.h"
#include "passes/tie/shared_fit.h"
#include "passes/tie/stored_weight.h"

namespace onnxfold {

enum class TieStart { kAverage, kWeighted, kStepwise, kLower };
enum class TieFactors { kSvd, kWhitened, kClosed, kAlternate };

// The weights of a group, without the graph: they stay what they were when other groups are tied.
struct TieWeights {
  std::vector<StoredWeight> members;
  StoredWeight stepwise, lower;  // what these starts take
};

struct TieGroup {
  std::string role;
  std::vector<std::size_t> blocks;  // of the members, as `inspect` shows them
  std::vector<Linear> linears;      // of the members
  TieWeights weights;
};

struct TieOptions {
  TieStart start = TieStart::kAverage;
  TieFactors factors = TieFactors::kSvd;
  int rounds = 5;
};

// By the names that the options of tie-layers have; `data`: what auto means.
TieOptions tie_options(const std::string& start, const std::string& factors, std::int64_t loops, bool data, int rounds);

// Groups of a stack, in order of unique layers, then roles. Weights that are one already make none. Errors: those of
// looped_layers().
Result<std::vector<TieGroup>> tie_groups(const LayerStack& stack, Looping looping, std::size_t loops);

// Statistics of the inputs of Linears, by name; empty without data.
using InputStatistics = std::map<std::string, ValueStatistics>;

// Without statistics of all inputs of the group: plain.
Result<SharedFitter> fitter_of(const TieGroup& group, const InputStatistics& statistics);
Result<SharedFitter> plain_fitter_of(const TieWeights& weights);
// The sizes alone.
CorrectionCurve sizes_of(const TieGroup& group);
// And what corrections of every rank would leave, with the shared matrix as the start has it.
Result<CorrectionCurve> curve_of(const TieGroup& group, const InputStatistics& statistics, const TieOptions& options);
// Corrections of residuals that are zero are left out (empty matrices). `error` becomes a share of the outputs (or of
// the weights): the root of what is left over the root of all.
Result<SharedFit> fit_group(const TieGroup& group, const InputStatistics& statistics, const TieOptions& options,
                            std::int64_t rank);
// The same with a fitter of these weights.
Result<SharedFit> fit_weights(const TieWeights& weights, const SharedFitter& fitter, const TieOptions& options,
                              std::int64_t rank);

// What is known of a fit before any decomposition.
struct TieOutline {
  std::vector<std::int64_t> ranks;  // of the corrections, by member; 0: the member is the shared weight itself
  double strict_error = 0;          // of the weights, without corrections (a share); 0 where the start is no part of it
};
// Of a fit without data. Errors: those of loading.
Result<TieOutline> outline_of(const TieWeights& weights, const TieOptions& options, std::int64_t rank);

// Corrections of one role get the highest rank that one of them has, filled with zeros: blocks stay equal, so that
// roll-layers can make a body of single blocks. Returns how many were filled. REQUIRES a fit for each group.
std::size_t pad_corrections(const std::vector<TieGroup>& groups, std::vector<SharedFit>& fits);

// Puts a shared weight [in, out] and corrections into a graph (the group's own or a copy with the same names).
// Undefined factors: no correction.
struct TiedTensors {
  Tensor shared;
  std::vector<std::pair<Tensor, Tensor>> factors;  // by member
};
Status place_tied(Graph& graph, const TieGroup& group, TiedTensors tensors,
                  const std::vector<std::vector<double>>& biases = {});
// The same with the numbers of a fit, rounded to the type of the weights.
Status apply_fit(Graph& graph, const TieGroup& group, const SharedFit& fit);
// A fit without biases, rounded to the element type.
Result<TiedTensors> rounded(const SharedFit& fit, DType dtype);

}  // namespace onnxfold
