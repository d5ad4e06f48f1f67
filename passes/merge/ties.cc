// TIES: trim, elect sign, merge what agrees (Yadav et al., NeurIPS 2023).
//
// Of every task vector W_i - base the `density` largest magnitudes stay. The sign of an element is the sign of the
// weighted sum; the merged element is the weighted mean of those that have that sign. W = base + lambda * merged.
#include <algorithm>
#include <cmath>

#include "passes/merge/method.h"

namespace onnxfold {
namespace {

Numbers task_vector(const Numbers& parent, const Numbers& base) {
  Numbers task(base.size());
  for (std::size_t i = 0; i < task.size(); ++i) task[i] = parent[i] - base[i];
  return task;
}

// Ties at the threshold go to the lower index.
void trim(Numbers& task, double density) {
  const auto kept = static_cast<std::size_t>(std::ceil(density * static_cast<double>(task.size())));
  if (kept >= task.size()) return;
  if (kept == 0) {
    std::fill(task.begin(), task.end(), 0.0);
    return;
  }
  Numbers magnitudes(task.size());
  std::transform(task.begin(), task.end(), magnitudes.begin(), [](double x) { return std::abs(x); });
  const auto nth = magnitudes.begin() + static_cast<std::ptrdiff_t>(kept - 1);
  std::nth_element(magnitudes.begin(), nth, magnitudes.end(), std::greater<>());
  const double threshold = *nth;
  auto above = static_cast<std::size_t>(
      std::count_if(task.begin(), task.end(), [&](double x) { return std::abs(x) > threshold; }));
  for (double& x : task) {
    if (std::abs(x) > threshold) continue;
    const bool keeps = std::abs(x) == threshold && above < kept;
    if (keeps) {
      ++above;
    } else {
      x = 0;
    }
  }
}

}  // namespace

Result<Numbers> ties(const MergeInput& input, const MergeSettings& settings) {
  std::vector<Numbers> tasks;
  for (const Numbers& parent : input.parents) {
    tasks.push_back(task_vector(parent, input.base));
    trim(tasks.back(), settings.density);
  }
  Numbers result = input.base;
  for (std::size_t i = 0; i < result.size(); ++i) {
    double sum = 0;
    for (std::size_t m = 0; m < tasks.size(); ++m) sum += input.weights[m] * tasks[m][i];
    double merged = 0, agreeing = 0;
    for (std::size_t m = 0; m < tasks.size(); ++m) {
      const double x = input.weights[m] * tasks[m][i];
      if (x == 0 || (x > 0) != (sum > 0)) continue;
      merged += x;
      agreeing += input.weights[m];
    }
    if (agreeing != 0) result[i] += settings.lambda * merged / agreeing;
  }
  return result;
}

}  // namespace onnxfold
