#include "analysis/structure/repeat_match.h"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/structure/repeat_mismatch.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr std::size_t kProbe = 64;  // bytes from either end tell most constants apart

// Do the declared types allow both to be the same value of a block?
bool types_agree(const Value& a, const Value& b) {
  if (a.type().kind != b.type().kind) return a.type().kind == Type::Kind::kNone || b.type().kind == Type::Kind::kNone;
  if (!a.type().is_tensor()) return a.type() == b.type();
  const bool known = a.dtype() != DType::kUndefined && b.dtype() != DType::kUndefined;
  if (known && a.dtype() != b.dtype()) return false;
  if (!a.type().shape || !b.type().shape) return true;
  if (a.type().shape->size() != b.type().shape->size()) return false;
  for (std::size_t i = 0; i < a.type().shape->size(); ++i) {
    const Dim &x = (*a.type().shape)[i], &y = (*b.type().shape)[i];
    if (x.known() && y.known() && x.value != y.value) return false;
  }
  return true;
}

// Is nothing known that tells their shapes apart? A number and a symbol do: one may broadcast where the other does not.
bool shapes_agree(const Value& a, const Value& b) {
  if (!types_agree(a, b)) return false;
  if (!a.type().shape || !b.type().shape) return true;
  for (std::size_t i = 0; i < a.type().shape->size(); ++i) {
    const Dim &x = (*a.type().shape)[i], &y = (*b.type().shape)[i];
    if ((x.known() && !y.symbol.empty()) || (y.known() && !x.symbol.empty())) return false;
  }
  return true;
}

bool same_outputs(const Node& a, const Node& b) {
  for (std::size_t i = 0; i < a.outputs().size(); ++i) {
    if (a.outputs()[i] != nullptr && !types_agree(*a.outputs()[i], *b.outputs()[i])) return false;
  }
  return true;
}

bool same_kind_of_constant(const Value* a, const Value* b) {
  const Tensor *x = constant(a), *y = constant(b);
  return x != nullptr && y != nullptr && x->dtype() == y->dtype() && x->dims() == y->dims();
}

// Values made outside that a block may choose from: inputs of one shape, or several outputs of one node.
bool interchangeable(const Value& a, const Value& b) {
  if (a.producer() != b.producer() || !same_shape(a, b)) return false;
  return a.producer() != nullptr || (a.is_graph_input() && b.is_graph_input());
}

bool can_be_stacked(const Tensor& tensor) {
  if (tensor.dtype() == DType::kString) return false;
  const auto whole = packed_bytes(tensor.dtype(), 2 * tensor.size());
  return whole && *whole == 2 * tensor.nbytes();  // elements of 4 bits: no half bytes at the seams
}

}  // namespace

bool same_shape(const Value& a, const Value& b) {
  if (!a.type().is_tensor() || !b.type().is_tensor() || a.dtype() != b.dtype() || !a.type().shape || !b.type().shape ||
      a.type().shape->size() != b.type().shape->size()) {
    return false;
  }
  for (std::size_t i = 0; i < a.type().shape->size(); ++i) {
    const Dim &x = (*a.type().shape)[i], &y = (*b.type().shape)[i];
    const bool number = x.known() && y.known() && x.value == y.value;
    if (!number && (x.symbol.empty() || x.symbol != y.symbol)) return false;
  }
  return true;
}

Value* ConstantClasses::representative(Value* value) {
  if (const auto found = known_.find(value); found != known_.end()) return found->second;
  known_[value] = value;
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || tensor->is_deferred() || tensor->dtype() == DType::kString || !value->quantization.empty()) {
    return value;
  }
  const auto bytes = tensor->bytes();
  if (!bytes) return value;
  const std::size_t count = std::min(kProbe, bytes->size());
  std::string probe = to_string(Type::tensor(tensor->dtype(), tensor->dims()));
  probe.append(reinterpret_cast<const char*>(bytes->data()), count);
  probe.append(reinterpret_cast<const char*>(bytes->data()) + bytes->size() - count, count);
  std::vector<Value*>& alike = by_probe_[probe];
  for (Value* other : alike) {
    const Tensor& theirs = *constant(other);
    const auto mine = tensor->content_hash(), hash = theirs.content_hash();
    if (theirs.same_as(*tensor) || (mine && hash && *mine == *hash)) return known_[value] = other;
  }
  alike.push_back(value);
  return value;
}

std::optional<Repeat> RepeatMatcher::match(Node& last, Node& previous) {
  earlier_.clear(), later_.clear(), lane_.clear(), nodes_.clear(), number_.clear(), operands_of_.clear();
  operands_.clear(), carried_by_.clear(), carried_.clear(), carried_in_.clear(), slots_.clear();
  refused_.clear(), mismatch_.clear();
  pair(last, previous);
  alike_ = earlier_.size();
  if (!close(last) || !number_nodes(last)) return std::nullopt;
  std::vector<Block> blocks = {{nodes_, carried_in_, slots_}};  // last to first
  std::unordered_set<const Node*> used(nodes_.begin(), nodes_.end());
  while (auto block = block_before(blocks.back())) {
    const bool fresh =
        std::none_of(block->nodes.begin(), block->nodes.end(), [&](const Node* node) { return used.contains(node); });
    if (!fresh) break;
    used.insert(block->nodes.begin(), block->nodes.end());
    blocks.push_back(std::move(*block));
  }
  if (blocks.size() < 2) return std::nullopt;
  if (2 * taken_ < nodes_.size()) mismatch_.clear();
  return described(blocks);
}

// Walks both cones backwards: which node stands one block before which.
void RepeatMatcher::pair(Node& last, Node& previous) {
  std::vector<std::pair<Node*, Node*>> open = {{&last, &previous}};
  while (!open.empty()) {
    const auto [b, a] = open.back();
    open.pop_back();
    if (b == a || earlier_.contains(b) || later_.contains(a)) continue;
    if (operations_.of(*b) < 0 || operations_.of(*b) != operations_.of(*a) || !same_outputs(*b, *a)) {
      refused_.try_emplace(b, a);
      continue;
    }
    earlier_[b] = a;
    later_[a] = b;
    const auto &read_b = operations_.operands(*b), &read_a = operations_.operands(*a);
    if (read_b.size() != read_a.size()) continue;
    for (std::size_t i = 0; i < read_b.size(); ++i) {
      const Value *x = read_b[i], *y = read_a[i];
      if (x == nullptr || y == nullptr || x == y || constant(x) != nullptr || constant(y) != nullptr) continue;
      if (x->producer() == nullptr || y->producer() == nullptr || x->output_index() != y->output_index()) continue;
      if (x->graph() != &graph_ || y->graph() != &graph_) continue;
      open.emplace_back(x->producer(), y->producer());
    }
  }
}

// The last block: what `last` is made of, up to what has a counterpart one block later.
bool RepeatMatcher::close(Node& last) {
  std::vector<Node*> open = {&last};
  while (!open.empty()) {
    Node* node = open.back();
    open.pop_back();
    if (!lane_.insert(node).second) continue;
    if (later_.contains(node)) return false;
    if (!earlier_.contains(node)) return refuse_node(*node);
    for (std::size_t i = 0; i < operations_.operands(*node).size(); ++i) {
      if (!classify(*node, i, open)) return refuse_operand(*node, i);
    }
  }
  return true;
}

bool RepeatMatcher::refuse_node(const Node& node) {
  if (const auto other = refused_.find(&node); other != refused_.end()) {
    mismatch_ = different_nodes(node, *other->second);
  }
  return false;
}

bool RepeatMatcher::refuse_operand(const Node& node, std::size_t i) {
  const Node& before = *earlier_.at(&node);
  const Value *value = operations_.operands(node)[i], *other = operations_.operands(before)[i];
  const bool inner = value != nullptr && value->producer() != nullptr && refused_.contains(value->producer());
  if (inner) return refuse_node(*value->producer());
  mismatch_ = different_inputs(node, before, value, other);
  return false;
}

bool RepeatMatcher::classify(const Node& node, std::size_t i, std::vector<Node*>& open) {
  using Kind = BlockOperand::Kind;
  Value* value = operations_.operands(node)[i];
  Value* before = operations_.operands(*earlier_.at(&node))[i];
  std::vector<BlockOperand>& operands = operands_of_[&node];
  if ((value == nullptr) != (before == nullptr)) return false;
  if (value == nullptr) {
    operands.push_back({Kind::kOmitted, 0, 0});
    return true;
  }
  const auto vary = [&] {
    operands.push_back({Kind::kVarying, static_cast<int>(slots_.size()), 0});
    slots_.push_back(value);
    return true;
  };
  if (constant(value) != nullptr) return same_kind_of_constant(value, before) && vary();
  Node* producer = value->graph() == &graph_ ? value->producer() : nullptr;
  if (value == before) {
    operands.push_back({Kind::kShared, 0, 0});
    return true;
  }
  if (producer == nullptr) return interchangeable(*value, *before) && vary();
  if (const auto image = later_.find(producer); image != later_.end()) {
    const std::pair<const Node*, int> by(image->second, value->output_index());
    const auto found = std::find(carried_by_.begin(), carried_by_.end(), by);
    operands.push_back({Kind::kCarried, static_cast<int>(found - carried_by_.begin()), 0});
    if (found == carried_by_.end()) {
      carried_by_.push_back(by);
      carried_in_.push_back(value);
    }
    return true;
  }
  const auto partner = earlier_.find(producer);
  if (partner != earlier_.end() && partner->second == before->producer() &&
      value->output_index() == before->output_index()) {
    operands.push_back({Kind::kInner, 0, value->output_index()});
    open.push_back(producer);
    return true;
  }
  return interchangeable(*value, *before) && vary();
}

bool RepeatMatcher::number_nodes(Node& last) {
  for (const Node* node : lane_) nodes_.push_back(const_cast<Node*>(node));
  std::sort(nodes_.begin(), nodes_.end(),
            [this](const Node* a, const Node* b) { return a != b && graph_.before(*a, *b); });
  for (std::size_t k = 0; k < nodes_.size(); ++k) number_[nodes_[k]] = static_cast<int>(k);
  bool carries_last = false;
  for (const auto& [node, output] : carried_by_) {
    const auto found = number_.find(node);
    if (found == number_.end()) return false;
    carried_.push_back({found->second, output});
    carries_last = carries_last || node == &last;
  }
  if (!carries_last) return false;
  for (const Node* node : nodes_) {
    operands_.push_back(operands_of_.at(node));
    for (std::size_t i = 0; i < operands_.back().size(); ++i) {
      BlockOperand& operand = operands_.back()[i];
      if (operand.kind != BlockOperand::Kind::kInner) continue;
      operand.index = number_.at(operations_.operands(*node)[i]->producer());
    }
  }
  return true;
}

std::optional<RepeatMatcher::Block> RepeatMatcher::block_before(const Block& later) {
  mismatch_.clear();
  taken_ = 0;
  Block block{std::vector<Node*>(nodes_.size(), nullptr), std::vector<Value*>(carried_.size(), nullptr),
              std::vector<Value*>(slots_.size(), nullptr)};
  std::vector<int> open;
  for (std::size_t c = 0; c < carried_.size(); ++c) {
    const Value* value = later.carried[c];
    if (value == nullptr || value->graph() != &graph_ || value->producer() == nullptr ||
        value->output_index() != carried_[c].output || !take(carried_[c].node, value->producer(), block, open)) {
      return std::nullopt;
    }
  }
  while (!open.empty()) {
    const int index = open.back();
    open.pop_back();
    if (!read_operands(index, *block.nodes[static_cast<std::size_t>(index)], block, open)) return std::nullopt;
  }
  const bool complete = std::find(block.nodes.begin(), block.nodes.end(), nullptr) == block.nodes.end();
  std::set<const Node*> distinct(block.nodes.begin(), block.nodes.end());
  if (!complete || distinct.size() != block.nodes.size()) return std::nullopt;
  return block;
}

bool RepeatMatcher::take(int index, Node* node, Block& block, std::vector<int>& open) {
  const auto k = static_cast<std::size_t>(index);
  if (block.nodes[k] != nullptr) return block.nodes[k] == node;
  if (operations_.of(*node) != operations_.of(*nodes_[k]) || !same_outputs(*nodes_[k], *node)) {
    mismatch_ = different_nodes(*nodes_[k], *node);
    return false;
  }
  block.nodes[k] = node;
  ++taken_;
  open.push_back(index);
  return true;
}

bool RepeatMatcher::read_operands(int index, Node& node, Block& block, std::vector<int>& open) {
  const auto k = static_cast<std::size_t>(index);
  const std::vector<Value*>& values = operations_.operands(node);
  const std::vector<Value*>& model = operations_.operands(*nodes_[k]);
  if (values.size() != model.size()) return false;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (operands_[k][i].kind == BlockOperand::Kind::kOmitted) continue;  // the operation says so
    if (values[i] != nullptr && read_operand(operands_[k][i], values[i], model[i], block, open)) continue;
    if (mismatch_.empty()) mismatch_ = different_inputs(*nodes_[k], node, model[i], values[i]);
    return false;
  }
  return true;
}

// What an earlier block reads where the last one reads `model`.
bool RepeatMatcher::read_operand(const BlockOperand& operand, Value* value, Value* model, Block& block,
                                 std::vector<int>& open) {
  using Kind = BlockOperand::Kind;
  const auto at = static_cast<std::size_t>(operand.index);
  switch (operand.kind) {
    case Kind::kShared:
      return value == model;
    case Kind::kVarying:
      block.slots[at] = value;
      if (value == model || same_kind_of_constant(value, model)) return true;
      return constant(value) == nullptr && constant(model) == nullptr && interchangeable(*value, *model);
    case Kind::kCarried:
      if (block.carried[at] != nullptr && block.carried[at] != value) return false;
      block.carried[at] = value;
      return shapes_agree(*value, *carried_in_[at]);
    case Kind::kInner:
      return value->graph() == &graph_ && value->producer() != nullptr && value->output_index() == operand.output &&
             take(operand.index, value->producer(), block, open);
    case Kind::kOmitted:
      break;
  }
  return true;
}

Repeat RepeatMatcher::described(const std::vector<Block>& last_to_first) {
  Repeat repeat;
  repeat.operands = operands_;
  repeat.carried = carried_;
  repeat.varying.resize(slots_.size());
  for (auto block = last_to_first.rbegin(); block != last_to_first.rend(); ++block) {
    repeat.blocks.push_back(block->nodes);
    repeat.carried_in.push_back(block->carried);
    for (std::size_t s = 0; s < slots_.size(); ++s) {
      repeat.varying[s].push_back(constants_.representative(block->slots[s]));
    }
  }
  return repeat;
}

namespace {

bool may_vary(const std::vector<Value*>& slot) {
  const Tensor* tensor = constant(slot.front());
  if (tensor != nullptr && !can_be_stacked(*tensor)) return false;
  return std::all_of(slot.begin(), slot.end(), [](const Value* value) { return value->quantization.empty(); });
}

}  // namespace

bool settle(Repeat& repeat, const Operations& operations) {
  using Kind = BlockOperand::Kind;
  std::map<std::vector<Value*>, int> kept;
  std::map<Value*, int> shared;
  std::vector<std::vector<Value*>> slots;
  const auto share = [&](BlockOperand& operand, Value* value) {
    const auto [found, fresh] = shared.try_emplace(value, static_cast<int>(shared.size()));
    if (fresh) repeat.shared.push_back(value);
    operand = {Kind::kShared, found->second, 0};
  };
  repeat.shared.clear();
  for (std::size_t k = 0; k < repeat.operands.size(); ++k) {
    for (std::size_t i = 0; i < repeat.operands[k].size(); ++i) {
      BlockOperand& operand = repeat.operands[k][i];
      if (operand.kind == Kind::kShared) share(operand, operations.operands(*repeat.blocks.back()[k])[i]);
      if (operand.kind != Kind::kVarying) continue;
      const std::vector<Value*>& slot = repeat.varying[static_cast<std::size_t>(operand.index)];
      if (std::all_of(slot.begin(), slot.end(), [&](const Value* value) { return value == slot[0]; })) {
        share(operand, slot[0]);
        continue;
      }
      if (!may_vary(slot)) return false;
      const auto [found, fresh] = kept.try_emplace(slot, static_cast<int>(kept.size()));
      if (fresh) slots.push_back(slot);
      operand.index = found->second;
    }
  }
  repeat.varying = std::move(slots);
  return true;
}

}  // namespace onnxfold
