// W = base + lambda sum w_i (W_i - base)  (Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023).
#include "passes/merge/method.h"

namespace onnxfold {

Result<Numbers> task_arithmetic(const MergeInput& input, const MergeSettings& settings) {
  double total = 0;
  for (const double weight : input.weights) total += weight;
  if (settings.normalize && total == 0)
    return fail(Code::kInvalidArgument, "normalize=true divides by the sum of the models' weights, which is zero");
  const double factor = settings.normalize ? settings.lambda / total : settings.lambda;
  Numbers result = input.base;
  for (std::size_t model = 0; model < input.parents.size(); ++model) {
    const Numbers& parent = input.parents[model];
    const double share = factor * input.weights[model];
    for (std::size_t i = 0; i < result.size(); ++i) result[i] += share * (parent[i] - input.base[i]);
  }
  return result;
}

}  // namespace onnxfold
