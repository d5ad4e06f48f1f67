// Spherical interpolation of two models, weight by weight (Shoemake, 1985): along the arc between their directions.
//
// W = sin((1-t) a)/sin a W_1 + sin(t a)/sin a W_2, a the angle between the flattened weights. Nearly parallel or zero
// weights are interpolated linearly, as the arc has no direction there.
#include <cmath>

#include "passes/merge/method.h"

namespace onnxfold {
namespace {

constexpr double kParallel = 0.9995;  // beyond it sin a loses digits and the arc is the chord

double dot(const Numbers& x, const Numbers& y) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

}  // namespace

Result<Numbers> slerp(const MergeInput& input, const MergeSettings& settings) {
  if (input.parents.size() != 2) return fail(Code::kInvalidArgument, "slerp merges exactly two models");
  const Numbers& first = input.parents[0];
  const Numbers& second = input.parents[1];
  const double t = settings.t;
  const double norms = std::sqrt(dot(first, first)) * std::sqrt(dot(second, second));
  const double cosine = norms > 0 ? dot(first, second) / norms : 1;
  Numbers result(second.size());
  if (std::abs(cosine) > kParallel) {
    for (std::size_t i = 0; i < result.size(); ++i) result[i] = second[i] + (1 - t) * (first[i] - second[i]);
    return t == 0 ? first : result;
  }
  const double angle = std::acos(cosine);
  const double a = std::sin((1 - t) * angle) / std::sin(angle);
  const double b = std::sin(t * angle) / std::sin(angle);
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = a * first[i] + b * second[i];
  return result;
}

}  // namespace onnxfold
