// Nodes that make no neurons of their own: maps go through them, vectors beside them follow, sums are joins.
#pragma once

#include <set>
#include <vector>

#include "passes/merge/method.h"
#include "passes/merge/residual_joins.h"
#include "passes/merge/transport_state.h"

namespace onnxfold {

class MapPassing {
 public:
  // Both must outlive this.
  MapPassing(TransportState& state, const ResidualJoins& joins) : state_(state), joins_(joins) {}

  // Gives every output of the anchor's node the map of its operands. Where these are tables of their own (positions,
  // class token), they get one from their values. Errors: invalid_argument, when axes of a table that are no channels
  // differ in size; those of joins and plans.
  Status pass_through(const Node& node);

  // A row for each table that got a map.
  std::vector<MergeLayer>& tables() { return tables_; }

 private:
  std::vector<JoinOperand> operands(const Node& node, std::size_t group) const;
  Status pass_on(const Node& node, const Value& output, const ChannelPlace& place);
  Result<TransportMap> combined(const Node& node, const std::vector<JoinOperand>& operands) const;
  Status map_table(const Value& constant, int axis);

  TransportState& state_;
  const ResidualJoins& joins_;
  std::set<const Value*> constant_;  // computed from constants alone
  std::vector<MergeLayer> tables_;
};

}  // namespace onnxfold
