#include "analysis/structure/repeat_surroundings.h"

#include <algorithm>

#include "ir/match.h"

namespace onnxfold {
namespace {

bool same_tensor_type(const Value* a, const Value* b) {
  const Tensor *x = constant(a), *y = constant(b);
  return x != nullptr && y != nullptr && x->dtype() == y->dtype() && x->dims() == y->dims();
}

}  // namespace

RepeatSurroundings::RepeatSurroundings(const Graph& graph, const Operations& operations)
    : graph_(graph), operations_(operations) {
  for (Node* node : graph.nodes()) {
    std::vector<Graph*> open = node->subgraphs();
    while (!open.empty()) {
      const Graph* inner = open.back();
      open.pop_back();
      owner_[inner] = node;
      for (const Node* deeper : inner->nodes()) {
        const std::vector<Graph*> more = deeper->subgraphs();
        open.insert(open.end(), more.begin(), more.end());
      }
    }
  }
}

Node* RepeatSurroundings::reader(const Use& use) const {
  if (use.node != nullptr && use.node->graph() == &graph_) return use.node;
  const Graph* inner = use.node != nullptr ? use.node->graph() : use.graph;
  const auto found = owner_.find(inner);
  return found == owner_.end() ? nullptr : found->second;
}

RepeatSurroundings::NodeSet RepeatSurroundings::dependents(const Repeat& repeat, std::size_t first_block) const {
  NodeSet reached;
  std::vector<const Node*> open;
  for (std::size_t t = first_block; t < repeat.count(); ++t) {
    for (const Node* node : repeat.blocks[t]) {
      if (reached.insert(node).second) open.push_back(node);
    }
  }
  while (!open.empty()) {
    const Node* node = open.back();
    open.pop_back();
    for (const Value* output : node->outputs()) {
      if (output == nullptr) continue;
      for (const Use& use : output->uses()) {
        const Node* next = reader(use);
        if (next != nullptr && reached.insert(next).second) open.push_back(next);
      }
    }
  }
  return reached;
}

bool RepeatSurroundings::independent(const Repeat& repeat, std::size_t first_block) {
  const NodeSet reached = dependents(repeat, first_block);
  const auto outer = [&](const Value* value) {
    if (value == nullptr || value->producer() == nullptr || !reached.contains(value->producer())) return true;
    dependence_ = value->name();
    return false;
  };
  if (!std::all_of(repeat.carried_in[first_block].begin(), repeat.carried_in[first_block].end(), outer)) return false;
  for (const std::vector<Value*>& slot : repeat.varying) {
    if (!std::all_of(slot.begin() + static_cast<std::ptrdiff_t>(first_block), slot.end(), outer)) return false;
  }
  for (std::size_t k = 0; k < repeat.node_count(); ++k) {
    for (std::size_t i = 0; i < repeat.operands[k].size(); ++i) {
      if (repeat.operands[k][i].kind != BlockOperand::Kind::kShared) continue;
      if (!outer(operations_.operands(*repeat.blocks.back()[k])[i])) return false;
    }
  }
  return true;
}

bool RepeatSurroundings::make_independent(Repeat& repeat) {
  std::size_t first = 0;
  dependence_.clear();
  while (first + 2 <= repeat.count() && !independent(repeat, first)) ++first;
  if (first + 2 > repeat.count()) return false;
  const auto drop = static_cast<std::ptrdiff_t>(first);
  repeat.blocks.erase(repeat.blocks.begin(), repeat.blocks.begin() + drop);
  repeat.carried_in.erase(repeat.carried_in.begin(), repeat.carried_in.begin() + drop);
  for (std::vector<Value*>& slot : repeat.varying) slot.erase(slot.begin(), slot.begin() + drop);
  return true;
}

void RepeatSurroundings::absorb(Repeat& repeat, ConstantClasses& constants) {
  dependents_ = dependents(repeat, 0);
  own_.clear(), number_.clear();
  for (const auto& block : repeat.blocks) own_.insert(block.begin(), block.end());
  for (std::size_t k = 0; k < repeat.node_count(); ++k) number_[repeat.blocks.back()[k]] = static_cast<int>(k);
  for (std::size_t k = 0; k < repeat.node_count(); ++k) {  // grows while we walk
    const Node& node = *repeat.blocks.back()[k];
    for (std::size_t o = 0; o < node.outputs().size(); ++o) {
      if (node.output(o) == nullptr) continue;
      const std::vector<Use> uses = node.output(o)->uses();
      for (const Use& use : uses) absorb_reader(repeat, k, static_cast<int>(o), use, constants);
    }
  }
}

// Finds the readers that stand to the other blocks as this one stands to the last, and adds them all or none.
bool RepeatSurroundings::absorb_reader(Repeat& repeat, std::size_t k, int output, const Use& use,
                                       ConstantClasses& constants) {
  if (use.node == nullptr || use.node->graph() != &graph_ || own_.contains(use.node)) return false;
  const int operation = operations_.of(*use.node);
  if (operation < 0) return false;
  std::vector<Node*> row;
  for (std::size_t t = 0; t + 1 < repeat.count(); ++t) {
    const Value* value = repeat.blocks[t][k]->output(static_cast<std::size_t>(output));
    Node* match = nullptr;
    for (const Use& other : value->uses()) {
      if (other.node == nullptr || other.node->graph() != &graph_ || other.index != use.index) continue;
      if (own_.contains(other.node) || operations_.of(*other.node) != operation) continue;
      if (match == nullptr) match = other.node;
    }
    if (match == nullptr || std::find(row.begin(), row.end(), match) != row.end()) return false;
    row.push_back(match);
  }
  if (std::find(row.begin(), row.end(), use.node) != row.end()) return false;
  row.push_back(use.node);
  return add(repeat, row, constants);
}

bool RepeatSurroundings::add(Repeat& repeat, const std::vector<Node*>& row, ConstantClasses& constants) {
  std::vector<BlockOperand> operands;
  std::vector<std::vector<Value*>> slots;
  for (std::size_t i = 0; i < operations_.operands(*row.back()).size(); ++i) {
    std::vector<Value*> slot;
    BlockOperand operand;
    if (!operand_of_row(repeat, row, i, operand, slot)) return false;
    if (operand.kind == BlockOperand::Kind::kVarying) {
      operand.index = static_cast<int>(repeat.varying.size() + slots.size());
      for (Value*& value : slot) value = constants.representative(value);
      slots.push_back(std::move(slot));
    }
    operands.push_back(operand);
  }
  number_[row.back()] = static_cast<int>(repeat.node_count());
  repeat.operands.push_back(std::move(operands));
  for (std::vector<Value*>& slot : slots) repeat.varying.push_back(std::move(slot));
  for (std::size_t t = 0; t < repeat.count(); ++t) repeat.blocks[t].push_back(row[t]);
  own_.insert(row.begin(), row.end());
  return true;
}

bool RepeatSurroundings::operand_of_row(const Repeat& repeat, const std::vector<Node*>& row, std::size_t i,
                                        BlockOperand& operand, std::vector<Value*>& slot) const {
  using Kind = BlockOperand::Kind;
  for (const Node* node : row) slot.push_back(operations_.operands(*node)[i]);
  const Value* last = slot.back();
  if (last == nullptr) {
    operand = {Kind::kOmitted, 0, 0};
    return true;
  }
  const auto every = [&](const auto& holds) {
    for (std::size_t t = 0; t < slot.size(); ++t) {
      if (slot[t] == nullptr || !holds(t)) return false;
    }
    return true;
  };
  if (const auto inner = number_.find(last->producer()); inner != number_.end()) {
    const auto k = static_cast<std::size_t>(inner->second);
    operand = {Kind::kInner, inner->second, last->output_index()};
    return every([&](std::size_t t) {
      return slot[t]->producer() == repeat.blocks[t][k] && slot[t]->output_index() == last->output_index();
    });
  }
  for (std::size_t c = 0; c < repeat.carried.size(); ++c) {
    operand = {Kind::kCarried, static_cast<int>(c), 0};
    if (every([&](std::size_t t) { return slot[t] == repeat.carried_in[t][c]; })) return true;
  }
  operand = {Kind::kVarying, 0, 0};
  if (constant(last) != nullptr) return every([&](std::size_t t) { return same_tensor_type(slot[t], last); });
  if (last->producer() != nullptr && dependents_.contains(last->producer())) return false;
  return every([&](std::size_t t) { return slot[t] == last; });
}

void RepeatSurroundings::list_outside(Repeat& repeat) const {
  NodeSet own;
  for (const auto& block : repeat.blocks) own.insert(block.begin(), block.end());
  for (std::size_t k = 0; k < repeat.node_count(); ++k) {
    for (std::size_t o = 0; o < repeat.blocks.back()[k]->outputs().size(); ++o) {
      const bool carried = std::any_of(repeat.carried.begin(), repeat.carried.end(), [&](const Repeat::Carried& each) {
        return each.node == static_cast<int>(k) && each.output == static_cast<int>(o);
      });
      Repeat::Outside outside{static_cast<int>(k), static_cast<int>(o), {}};
      for (std::size_t t = 0; t < repeat.count(); ++t) {
        const Value* value = repeat.blocks[t][k]->output(o);
        const bool final_value = carried && t + 1 == repeat.count();
        outside.wanted.push_back(value != nullptr && !final_value &&
                                 std::any_of(value->uses().begin(), value->uses().end(),
                                             [&](const Use& use) { return !own.contains(reader(use)); }));
      }
      if (std::find(outside.wanted.begin(), outside.wanted.end(), true) != outside.wanted.end()) {
        repeat.outside.push_back(std::move(outside));
      }
    }
  }
}

}  // namespace onnxfold
