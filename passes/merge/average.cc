// W = sum w_i W_i / sum w_i, written as anchor + sum w_i (W_i - anchor), so that equal weights stay the same bits.
#include "passes/merge/method.h"

namespace onnxfold {

Result<Numbers> average(const MergeInput& input, const MergeSettings& /*settings*/) {
  double total = 0;
  for (const double weight : input.weights) total += weight;
  if (total == 0) return fail(Code::kInvalidArgument, "the models' weights sum to zero: their mean is none");
  const Numbers& anchor = input.parents.back();
  Numbers result = anchor;
  for (std::size_t model = 0; model + 1 < input.parents.size(); ++model) {
    const double share = input.weights[model] / total;
    const Numbers& parent = input.parents[model];
    // A share of one returns the parent itself and not a difference that rounds.
    if (share == 1) {
      result = parent;
      continue;
    }
    for (std::size_t i = 0; i < result.size(); ++i) result[i] += share * (parent[i] - anchor[i]);
  }
  return result;
}

}  // namespace onnxfold
