#include "passes/quantize/norm_importance.h"

#include <algorithm>
#include <cmath>

#include "analysis/structure/norm.h"
#include "ir/match.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

// No column is free: gains say what is usual, not what can happen.
constexpr double kLeast = 0.01;

bool ends_with(const Value& value, std::int64_t width) {
  const auto& shape = value.type().shape;
  return shape && !shape->empty() && shape->back().value == width;
}

// The value whose channels those of `value` are.
const Value* channels_of(const Value* value, std::int64_t width) {
  for (const Node* node = value->producer(); node != nullptr; node = value->producer()) {
    const bool same = node->is("Identity") || node->is("Cast");
    if (!same && !node->is("Reshape")) return value;
    if (!same && !(ends_with(*value, width) && ends_with(*node->input(0), width))) return value;
    value = node->input(0);
  }
  return value;
}

Result<std::vector<double>> second_moments(const Norm& norm) {
  std::vector<double> moments;
  for (const Value* parameter : {norm.gain, norm.bias}) {
    if (parameter == nullptr || constant(parameter) == nullptr) continue;
    OF_ASSIGN(const std::vector<double> numbers, to_doubles(*constant(parameter)));
    const bool bias = parameter == norm.bias;
    if (moments.empty()) moments.assign(numbers.size(), bias ? 1.0 : 0.0);
    if (moments.size() != numbers.size()) return std::vector<double>();
    for (std::size_t i = 0; i < numbers.size(); ++i) moments[i] += numbers[i] * numbers[i];
  }
  return moments;
}

// Scaled to mean 1; all 1 where it says nothing.
std::vector<double> normalised(std::vector<double> moments, std::size_t columns) {
  double sum = 0;
  for (const double m : moments) sum += m;
  if (moments.size() != columns || !(sum > 0) || !std::isfinite(sum)) return std::vector<double>(columns, 1.0);
  const double unit = static_cast<double>(columns) / sum;
  for (double& m : moments) m = (1 - kLeast) * m * unit + kLeast;
  return moments;
}

}  // namespace

Result<NormImportance> NormImportance::find(const Graph& graph, const std::vector<WeightTarget>& targets) {
  std::map<const Value*, Norm> norms;
  for (Norm& norm : find_norms(graph)) norms.emplace(norm.output, std::move(norm));
  std::map<Key, std::vector<double>> sums;
  for (const WeightTarget& target : targets) {
    const auto columns = static_cast<std::size_t>(target.shape.cols);
    std::vector<double> moments;
    if (target.use == WeightUse::kProduct && target.input == 1) {
      const auto norm = norms.find(channels_of(target.node->input(0), target.shape.cols));
      if (norm != norms.end()) {
        OF_ASSIGN(moments, second_moments(norm->second));
      }
    }
    moments = normalised(std::move(moments), columns);
    std::vector<double>& sum = sums[key_of(target)];
    sum.resize(columns);
    for (std::size_t i = 0; i < columns; ++i) sum[i] += moments[i];
  }
  NormImportance importance;
  for (const auto& [key, sum] : sums) {
    const auto [least, most] = std::minmax_element(sum.begin(), sum.end());
    if (sum.empty() || *most - *least <= 1e-6 * *most) continue;
    double total = 0;
    for (const double each : sum) total += each;
    std::vector<float> mean_one;
    for (const double each : sum)
      mean_one.push_back(static_cast<float>(each * static_cast<double>(sum.size()) / total));
    importance.found_[key] = std::make_shared<const std::vector<float>>(std::move(mean_one));
  }
  return importance;
}

ColumnImportance NormImportance::of(const WeightTarget& target) const {
  const auto found = found_.find(key_of(target));
  return found == found_.end() ? nullptr : found->second;
}

}  // namespace onnxfold
