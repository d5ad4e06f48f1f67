// Model Stock: how far to go from the base to the mean of fine-tuned models (Jang et al., ECCV 2024).
//
// With c the mean cosine between the N task vectors of a weight: t = N c / (1 + (N - 1) c), W = t mean(W_i) + (1 - t)
// base.
#include <algorithm>
#include <cmath>

#include "passes/merge/method.h"

namespace onnxfold {
namespace {

// Products of task vectors, pair by pair.
class Agreement final : public WeightFacts {
 public:
  explicit Agreement(std::size_t models) : models_(models), pairs_(models * models) {}

  void look(const MergeInput& part) override {
    for (std::size_t a = 0; a < models_; ++a) {
      for (std::size_t b = a; b < models_; ++b)
        add(part.parents[a], part.parents[b], part.base, pairs_[a * models_ + b]);
    }
  }
  double mean_cosine() const {
    double sum = 0;
    for (std::size_t a = 0; a < models_; ++a) {
      for (std::size_t b = a + 1; b < models_; ++b) {
        const double xx = pairs_[a * models_ + a], yy = pairs_[b * models_ + b];
        sum += xx > 0 && yy > 0 ? pairs_[a * models_ + b] / std::sqrt(xx * yy) : 0;
      }
    }
    const double n = static_cast<double>(models_);
    return std::clamp(2 * sum / (n * (n - 1)), 0.0, 1.0);
  }

 private:
  static void add(const Numbers& x, const Numbers& y, const Numbers& base, double& sum) {
    for (std::size_t i = 0; i < base.size(); ++i) sum += (x[i] - base[i]) * (y[i] - base[i]);
  }

  std::size_t models_;
  std::vector<double> pairs_;
};

}  // namespace

std::unique_ptr<WeightFacts> model_stock_facts(const MergeSettings& /*settings*/, std::size_t models,
                                               std::int64_t /*size*/) {
  return std::make_unique<Agreement>(models);
}

Result<Numbers> model_stock(const MergeInput& input, const MergeSettings& /*settings*/) {
  Agreement own(input.parents.size());
  if (input.facts == nullptr) own.look(input);
  const double c = (input.facts == nullptr ? own : static_cast<const Agreement&>(*input.facts)).mean_cosine();
  const double n = static_cast<double>(input.parents.size());
  const double t = n * c / (1 + (n - 1) * c);
  Numbers result = input.base;
  for (const Numbers& parent : input.parents) {
    for (std::size_t i = 0; i < result.size(); ++i) result[i] += t / n * (parent[i] - input.base[i]);
  }
  return result;
}

}  // namespace onnxfold
