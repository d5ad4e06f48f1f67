// DARE: drop elements of the task vectors at random and rescale the rest (Yu et al., Language Models are Super Mario,
// ICML 2024): W = base + lambda sum w_i m_i (W_i - base) / density, m_i ~ Bernoulli(density), from the seed.
#include "passes/merge/method.h"

namespace onnxfold {
namespace {

// splitmix64: the i-th number without the ones before it.
double uniform(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1.0p-53;
}

}  // namespace

Result<Numbers> dare(const MergeInput& input, const MergeSettings& settings) {
  double total = 0;
  for (const double weight : input.weights) total += weight;
  if (settings.normalize && total == 0)
    return fail(Code::kInvalidArgument, "normalize=true divides by the sum of the models' weights, which is zero");
  const double factor = (settings.normalize ? settings.lambda / total : settings.lambda) / settings.density;
  Numbers result = input.base;
  for (std::size_t model = 0; model < input.parents.size(); ++model) {
    const Numbers& parent = input.parents[model];
    const double share = factor * input.weights[model];
    const std::uint64_t seed = input.seed + model * 0xd1342543de82ef95ULL;
    for (std::size_t i = 0; i < result.size(); ++i) {
      if (uniform(seed, static_cast<std::uint64_t>(input.first) + i) < settings.density)
        result[i] += share * (parent[i] - input.base[i]);
    }
  }
  return result;
}

}  // namespace onnxfold
