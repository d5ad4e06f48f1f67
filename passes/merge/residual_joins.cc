#include "passes/merge/residual_joins.h"

#include <algorithm>

#include "analysis/align/axis_map.h"
#include "analysis/structure/correspondence.h"
#include "passes/merge/aligned_weights.h"

namespace onnxfold {

std::map<const Value*, int> joined_values(const Graph& anchor, const ChannelMaps& maps,
                                          const std::set<const Node*>& inner) {
  std::map<const Value*, int> found;
  for (const Node* node : anchor.nodes()) {
    if (!node->is("Add") || inner.count(node) != 0) continue;
    for (const Value* input : node->inputs()) {
      const auto& places = maps.places(input);
      if (parameter(input) == nullptr && !places.empty()) found[input] = places.front().axis;
    }
  }
  return found;
}

std::vector<double> mean_magnitudes(const Moments& moments) {
  std::vector<double> result = moments.sum_abs;
  for (double& x : result) x /= static_cast<double>(std::max<std::int64_t>(moments.rows, 1));
  return result;
}

ResidualJoins::ResidualJoins(const Graph& anchor, ResidualPolicy policy) : policy_(policy) {
  for (const Node* node : anchor.nodes()) order_.emplace(node, order_.size() + 1);
}

bool ResidualJoins::weighs() const {
  return policy_ == ResidualPolicy::kWeightedScalar || policy_ == ResidualPolicy::kWeightedMatrix;
}

std::size_t ResidualJoins::order_of(const Value* value) const {
  const auto found = order_.find(value->producer());
  return found == order_.end() ? 0 : found->second;
}

Result<TransportMap> ResidualJoins::joined(const JoinOperand& stream, const JoinOperand& branch,
                                           const ChannelMaps& maps) const {
  JoinMagnitudes magnitudes;
  if (weighs()) {
    OF_ASSIGN(magnitudes.stream, magnitude(stream));
    OF_ASSIGN(magnitudes.branch, magnitude(branch));
  }
  const TransportMap r = maps.at(stream.value, stream.axis), b = maps.at(branch.value, branch.axis);
  if (r == nullptr && b == nullptr) return TransportMap();
  return joined_map(r, b, policy_, magnitudes);
}

Result<TransportMap> ResidualJoins::joined_in_order(const JoinOperand& a, const JoinOperand& b,
                                                    const ChannelMaps& maps) const {
  // A table (of positions) joins the stream, as in the method's released code.
  const bool swap = a.constant != b.constant ? a.constant : order_of(a.value) > order_of(b.value);
  return swap ? joined(b, a, maps) : joined(a, b, maps);
}

Result<std::vector<double>> ResidualJoins::magnitude(const JoinOperand& operand) const {
  const auto found = magnitudes_.find(operand.value);
  if (found != magnitudes_.end()) return found->second;
  if (parameter(operand.value) == nullptr) return std::vector<double>();
  OF_ASSIGN(const Weight weight, weight_of(*operand.value));
  Moments moments;
  moments.add(columns_along(weight, operand.axis));
  return mean_magnitudes(moments);
}

}  // namespace onnxfold
