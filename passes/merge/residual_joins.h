// Sums of the anchor's graph where a residual branch joins its stream: one map for what comes out.
#pragma once

#include <map>
#include <set>
#include <vector>

#include "analysis/calibrate/statistics.h"
#include "ir/graph.h"
#include "passes/merge/channel_maps.h"
#include "passes/merge/residual_policy.h"

namespace onnxfold {

// What a sum adds, with its axis of channels.
struct JoinOperand {
  const Value* value;
  int axis;
  bool constant = false;  // or computed from constants alone
};

// By value: the axis of channels of everything that sums of computed values add, but in nodes that are `inner` (of
// norms and attention).
std::map<const Value*, int> joined_values(const Graph& anchor, const ChannelMaps& maps,
                                          const std::set<const Node*>& inner);

// sum |x| / rows, by channel.
std::vector<double> mean_magnitudes(const Moments& moments);

class ResidualJoins {
 public:
  ResidualJoins(const Graph& anchor, ResidualPolicy policy);

  // Does the policy ask for magnitudes of joined_values?
  bool weighs() const;
  // Mean magnitudes by channel; those of constants are computed from their values.
  void set_magnitudes(std::map<const Value*, std::vector<double>> magnitudes) { magnitudes_ = std::move(magnitudes); }

  // The map behind the sum by the policy; null when both are. Errors: those of joined_map.
  Result<TransportMap> joined(const JoinOperand& stream, const JoinOperand& branch, const ChannelMaps& maps) const;
  // The same, of operands in any order: the stream is what was there first.
  Result<TransportMap> joined_in_order(const JoinOperand& a, const JoinOperand& b, const ChannelMaps& maps) const;

 private:
  std::size_t order_of(const Value* value) const;
  Result<std::vector<double>> magnitude(const JoinOperand& operand) const;

  ResidualPolicy policy_;
  std::map<const Node*, std::size_t> order_;  // from 1; what no node makes comes first
  std::map<const Value*, std::vector<double>> magnitudes_;
};

}  // namespace onnxfold
