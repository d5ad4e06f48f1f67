// Residual Adds and the branches that end in them. Internal to analysis/structure.
#pragma once

#include <map>
#include <set>
#include <vector>

#include "analysis/structure/norm.h"
#include "ir/graph.h"

namespace onnxfold {

struct Residual {
  Node* add = nullptr;      // Add or SkipLayerNormalization
  Value* stream = nullptr;  // operand: the stream before
  Value* addend = nullptr;  // operand: what the branch adds
  Value* reads = nullptr;   // where the branch leaves the stream: `stream`, or an earlier value of the same stream
  Value* sum = nullptr;     // the stream after; null when only SkipLayerNormalization's norm is kept
  std::set<Node*> branch;   // nodes on the way from `reads` to `addend`
  int before = -1;  // index of the residual whose sum (behind norm, activation, moves) is `stream`; -1: the first
};

class ResidualFinder {
 public:
  // `inner`: nodes that belong to attentions, feed-forward layers, norms and activations: their Adds are no residuals.
  ResidualFinder(const Graph& graph, const std::set<const Node*>& inner);
  // In topological order.
  std::vector<Residual> run();
  // The residual whose sum this is, seen through norms, activations and what moves or casts; -1 for none.
  int residual_behind(const Value* value) const;

 private:
  bool direct(Value* stream, Value* addend, Residual& residual) const;
  bool side_by_side(Value* stream, Value* addend, Residual& residual) const;
  std::set<Node*> branch_between(Value* from, Value* to) const;

  const Graph& graph_;
  const std::set<const Node*>& inner_;
  std::vector<Norm> norms_;
  std::map<const Value*, const Norm*> norm_of_output_;
  std::map<const Value*, Value*> activations_;  // output to input
  std::vector<Residual> found_;
  std::map<const Value*, int> sums_;
};

}  // namespace onnxfold
