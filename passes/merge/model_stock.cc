// Model Stock: how far to go from the base to the mean of fine-tuned models (Jang et al., ECCV 2024).
//
// With c the mean cosine between the N task vectors of a weight: t = N c / (1 + (N - 1) c), W = t mean(W_i) + (1 - t)
// base.
#include <algorithm>
#include <cmath>

#include "passes/merge/method.h"

namespace onnxfold {
namespace {

double cosine(const Numbers& x, const Numbers& y, const Numbers& base) {
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < base.size(); ++i) {
    const double a = x[i] - base[i], b = y[i] - base[i];
    xy += a * b;
    xx += a * a;
    yy += b * b;
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

}  // namespace

Result<Numbers> model_stock(const MergeInput& input, const MergeSettings& /*settings*/) {
  const std::size_t count = input.parents.size();
  double sum = 0;
  for (std::size_t a = 0; a < count; ++a) {
    for (std::size_t b = a + 1; b < count; ++b) sum += cosine(input.parents[a], input.parents[b], input.base);
  }
  const double n = static_cast<double>(count);
  const double c = std::clamp(2 * sum / (n * (n - 1)), 0.0, 1.0);
  const double t = n * c / (1 + (n - 1) * c);
  Numbers result = input.base;
  for (const Numbers& parent : input.parents) {
    for (std::size_t i = 0; i < result.size(); ++i) result[i] += t / n * (parent[i] - input.base[i]);
  }
  return result;
}

}  // namespace onnxfold
