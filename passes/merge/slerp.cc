// Spherical interpolation of two models, weight by weight (Shoemake, 1985): along the arc between their directions.
//
// W = sin((1-t) a)/sin a W_1 + sin(t a)/sin a W_2, a the angle between the flattened weights. Nearly parallel or zero
// weights are interpolated linearly, as the arc has no direction there.
#include <cmath>

#include "passes/merge/method.h"

namespace onnxfold {
namespace {

constexpr double kParallel = 0.9995;  // beyond it sin a loses digits and the arc is the chord

void add_dot(const Numbers& x, const Numbers& y, double& sum) {
  for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
}

class Angle final : public WeightFacts {
 public:
  void look(const MergeInput& part) override {
    add_dot(part.parents[0], part.parents[0], first_);
    add_dot(part.parents[1], part.parents[1], second_);
    add_dot(part.parents[0], part.parents[1], both_);
  }
  double cosine() const {
    const double norms = std::sqrt(first_) * std::sqrt(second_);
    return norms > 0 ? both_ / norms : 1;
  }

 private:
  double first_ = 0, second_ = 0, both_ = 0;
};

}  // namespace

std::unique_ptr<WeightFacts> slerp_facts(const MergeSettings& /*settings*/, std::size_t models, std::int64_t /*size*/) {
  return models == 2 ? std::make_unique<Angle>() : nullptr;
}

Result<Numbers> slerp(const MergeInput& input, const MergeSettings& settings) {
  if (input.parents.size() != 2) return fail(Code::kInvalidArgument, "slerp merges exactly two models");
  const Numbers& first = input.parents[0];
  const Numbers& second = input.parents[1];
  const double t = settings.t;
  Angle own;
  if (input.facts == nullptr) own.look(input);
  const double cosine = (input.facts == nullptr ? own : static_cast<const Angle&>(*input.facts)).cosine();
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
