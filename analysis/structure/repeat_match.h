// One run of equal blocks, matched from its last node backwards. Internal to analysis/structure.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "analysis/structure/repeats.h"

namespace onnxfold {

// Constants of equal type and content have one representative.
class ConstantClasses {
 public:
  Value* representative(Value* value);

 private:
  std::unordered_map<const Value*, Value*> known_;
  std::map<std::string, Value*> by_content_;
  std::map<std::string, std::vector<Value*>> by_probe_;
};

class RepeatMatcher {
 public:
  RepeatMatcher(const Graph& graph, const Operations& operations, ConstantClasses& constants)
      : graph_(graph), operations_(operations), constants_(constants) {}

  // The longest run whose last block ends with `last` and whose block before that ends with `previous`. None when they
  // are no such ends or there are fewer than two blocks. Not yet settled, without `outside`.
  std::optional<Repeat> match(Node& last, Node& previous);

  // Why the last match found none, or what is before its first block is no block though half of it is; else empty.
  const std::string& mismatch() const { return mismatch_; }
  // Nodes that the last match found alike.
  std::size_t alike() const { return alike_; }

 private:
  struct Block {
    std::vector<Node*> nodes;
    std::vector<Value*> carried, slots;
  };

  void pair(Node& last, Node& previous);
  bool close(Node& last);
  bool classify(const Node& node, std::size_t i, std::vector<Node*>& open);
  bool number_nodes(Node& last);
  std::optional<Block> block_before(const Block& later);
  bool read_operands(int index, Node& node, Block& block, std::vector<int>& open);
  bool read_operand(const BlockOperand& operand, Value* value, Value* model, Block& block, std::vector<int>& open);
  bool take(int index, Node* node, Block& block, std::vector<int>& open);
  bool refuse_node(const Node& node);
  bool refuse_operand(const Node& node, std::size_t i);
  Repeat described(const std::vector<Block>& last_to_first);

  const Graph& graph_;
  const Operations& operations_;
  ConstantClasses& constants_;

  std::unordered_map<const Node*, Node*> earlier_, later_;
  std::unordered_map<const Node*, const Node*> refused_;  // nodes of the later cone, no match for these
  std::string mismatch_;
  std::size_t alike_ = 0, taken_ = 0;
  std::unordered_set<const Node*> lane_;
  std::vector<Node*> nodes_;
  std::unordered_map<const Node*, int> number_;
  std::unordered_map<const Node*, std::vector<BlockOperand>> operands_of_;
  std::vector<std::vector<BlockOperand>> operands_;
  std::vector<std::pair<const Node*, int>> carried_by_;  // node of the last block and output, before numbering
  std::vector<Repeat::Carried> carried_;
  std::vector<Value*> carried_in_;  // of the last block
  std::vector<Value*> slots_;       // of the last block
};

// Lists what blocks share and merges slots that are equal in every block. False when constants vary that cannot be
// joined along a new axis.
bool settle(Repeat& repeat, const Operations& operations);

}  // namespace onnxfold
