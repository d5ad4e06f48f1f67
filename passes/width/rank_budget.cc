#include "passes/width/rank_budget.h"

#include <algorithm>
#include <cmath>

namespace onnxfold {
namespace {

std::int64_t dense_cost(const RankCurve& curve) { return curve.in * curve.out; }
std::int64_t rank_cost(const RankCurve& curve) { return curve.in + curve.out; }
// The first rank that costs as much as the dense weight.
std::int64_t break_even(const RankCurve& curve) {
  return (dense_cost(curve) + rank_cost(curve) - 1) / rank_cost(curve);
}

std::int64_t settled(const RankCurve& curve, std::int64_t rank) {
  return rank >= break_even(curve) ? 0 : std::max<std::int64_t>(rank, 1);
}

struct Step {
  std::size_t weight = 0;
  double gain = 0;  // error taken away per parameter
};

}  // namespace

std::vector<std::int64_t> uniform_ranks(const std::vector<RankCurve>& curves, std::int64_t budget) {
  std::int64_t dense = 0;
  for (const RankCurve& curve : curves) dense += dense_cost(curve);
  std::vector<std::int64_t> ranks;
  for (const RankCurve& curve : curves) {
    const double share = static_cast<double>(budget) / static_cast<double>(std::max<std::int64_t>(dense, 1));
    const double rank = share * static_cast<double>(dense_cost(curve)) / static_cast<double>(rank_cost(curve));
    ranks.push_back(share >= 1 ? 0 : settled(curve, static_cast<std::int64_t>(rank)));
  }
  return ranks;
}

double tail_of(const RankCurve& curve, std::int64_t rank) {
  double tail = 0;
  for (std::size_t r = static_cast<std::size_t>(rank); r < curve.singular.size(); ++r) {
    tail += curve.singular[r] * curve.singular[r];
  }
  return tail;
}

std::vector<std::int64_t> ranks_by_error(const std::vector<RankCurve>& curves, std::int64_t budget, double relative,
                                         double least) {
  std::vector<double> harm;
  for (const RankCurve& curve : curves) {
    const double energy = tail_of(curve, 0);
    harm.push_back(energy > 0 ? std::pow(energy, -relative) : 0);
  }
  return ranks_by_harm(curves, budget, harm, least);
}

std::vector<std::int64_t> ranks_by_harm(const std::vector<RankCurve>& curves, std::int64_t budget,
                                        const std::vector<double>& harm, double least) {
  std::vector<Step> steps;
  std::int64_t spent = 0, dense = 0;
  for (const RankCurve& curve : curves) dense += dense_cost(curve);
  if (budget >= dense) return std::vector<std::int64_t>(curves.size(), 0);
  const double share = least * static_cast<double>(budget) / static_cast<double>(std::max<std::int64_t>(dense, 1));
  std::vector<std::int64_t> ranks;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const RankCurve& curve = curves[i];
    const double weight = harm[i];
    const std::int64_t last =
        std::min<std::int64_t>(break_even(curve), static_cast<std::int64_t>(curve.singular.size()));
    const double uniform = share * static_cast<double>(dense_cost(curve)) / static_cast<double>(rank_cost(curve));
    ranks.push_back(std::clamp<std::int64_t>(static_cast<std::int64_t>(uniform), 1, std::max<std::int64_t>(last, 1)));
    spent += ranks.back() * rank_cost(curve);  // everybody's
    for (std::int64_t r = ranks.back(); r < last; ++r) {
      const double s = curve.singular[static_cast<std::size_t>(r)];
      steps.push_back({i, weight * s * s / static_cast<double>(rank_cost(curve))});
    }
  }
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.gain > b.gain; });
  for (const Step& step : steps) {
    const std::int64_t cost = rank_cost(curves[step.weight]);
    if (spent + cost > budget) continue;
    spent += cost;
    ++ranks[step.weight];
  }
  for (std::size_t i = 0; i < curves.size(); ++i) ranks[i] = settled(curves[i], ranks[i]);
  return ranks;
}

}  // namespace onnxfold
