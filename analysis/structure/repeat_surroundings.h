// What lies around a run of equal blocks: what it must not depend on, what belongs to it, what reads it. Internal to
// analysis/structure.
#pragma once

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "analysis/structure/repeat_match.h"

namespace onnxfold {

class RepeatSurroundings {
 public:
  RepeatSurroundings(const Graph& graph, const Operations& operations);

  // Drops first blocks until nothing that the run reads from outside depends on the run. False when fewer than two
  // blocks are left.
  bool make_independent(Repeat& repeat);
  // What the first blocks that it dropped make and all read; empty when it dropped none.
  const std::string& dependence() const { return dependence_; }
  // Adds nodes that only read what blocks make, block by block the same.
  void absorb(Repeat& repeat, ConstantClasses& constants);
  void list_outside(Repeat& repeat) const;

 private:
  using NodeSet = std::unordered_set<const Node*>;

  // The node of the graph that reads here, itself or in a subgraph; null for outputs of the graph.
  Node* reader(const Use& use) const;
  // Every node that depends on the run, the run included.
  NodeSet dependents(const Repeat& repeat, std::size_t first_block) const;
  bool independent(const Repeat& repeat, std::size_t first_block);
  bool absorb_reader(Repeat& repeat, std::size_t k, int output, const Use& use, ConstantClasses& constants);
  bool add(Repeat& repeat, const std::vector<Node*>& row, ConstantClasses& constants);
  bool operand_of_row(const Repeat& repeat, const std::vector<Node*>& row, std::size_t i, BlockOperand& operand,
                      std::vector<Value*>& slot) const;

  const Graph& graph_;
  const Operations& operations_;
  std::unordered_map<const Graph*, Node*> owner_;
  std::string dependence_;
  NodeSet own_, dependents_;                     // of the run that is being looked at
  std::unordered_map<const Node*, int> number_;  // in the last block
};

}  // namespace onnxfold
