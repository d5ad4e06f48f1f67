#include "passes/tie/rolled_run.h"

#include <algorithm>
#include <map>

#include "ir/match.h"
#include "passes/inline_graph.h"
#include "passes/rewrite.h"
#include "passes/tie/block_names.h"
#include "passes/tie/stacked_tensor.h"
#include "passes/tie/stacked_type.h"

namespace onnxfold {
namespace {

using Kind = BlockOperand::Kind;

NodeSpec spec_of(std::string op_type, std::vector<Value*> inputs, std::string output, Type type) {
  NodeSpec spec;
  spec.op_type = std::move(op_type);
  spec.inputs = std::move(inputs);
  spec.outputs.push_back({std::move(output), std::move(type), false});
  return spec;
}

bool copies_with_turn(const Attribute& attribute) {
  return std::holds_alternative<std::unique_ptr<Graph>>(attribute.value) ||
         std::holds_alternative<std::vector<std::unique_ptr<Graph>>>(attribute.value);
}

}  // namespace

Node* RolledRun::write() {
  const std::vector<Node*> nodes = graph_.nodes();
  const Node* last = repeat_.blocks.back().front();
  for (const auto& block : repeat_.blocks) {
    for (const Node* node : block) last = graph_.before(*last, *node) ? node : last;
  }
  const auto at = std::find(nodes.begin(), nodes.end(), last);
  before_ = at + 1 == nodes.end() ? nullptr : *(at + 1);
  make_slots();
  begin_body();
  pick_slots();
  copy_nodes();
  finish_body();
  Node* node = insert_node();
  replace_outside(*node);
  erase_blocks();
  return node;
}

Type RolledRun::merged_type(int node, int output) const {
  const auto k = static_cast<std::size_t>(node), o = static_cast<std::size_t>(output);
  Type type = repeat_.blocks[0][k]->output(o)->type();
  for (const auto& block : repeat_.blocks) type = agreed(std::move(type), block[k]->output(o)->type());
  return type;
}

std::string RolledRun::merged_name(int node, int output) const {
  std::vector<std::string> names;
  for (const auto& block : repeat_.blocks) {
    const Value* value = block[static_cast<std::size_t>(node)]->output(static_cast<std::size_t>(output));
    if (value->is_graph_output()) continue;  // a public name says nothing of the block
    names.push_back(value->name());
  }
  return names.empty() ? std::string() : common_name(names);
}

void RolledRun::make_slots() {
  for (const std::vector<Value*>& values : repeat_.varying) {
    if (constant(values[0]) != nullptr) {
      slots_.push_back(constant_slot(values));
    } else {
      slots_.push_back({joined_at_run_time(values), nullptr, nullptr});
    }
  }
}

RolledRun::Slot RolledRun::constant_slot(const std::vector<Value*>& values) {
  std::vector<Tensor> parts;
  std::vector<std::string> names;
  std::vector<std::int64_t> table;
  std::map<const Value*, std::int64_t> known;
  for (const Value* value : values) {
    const auto [found, fresh] = known.try_emplace(value, static_cast<std::int64_t>(parts.size()));
    table.push_back(found->second);
    if (!fresh) continue;
    parts.push_back(*constant(value));
    names.push_back(value->name());
    bytes_before_ += constant(value)->nbytes();
  }
  const std::string hint = common_name(names);
  const bool own_name = parts.size() > 1 && hint == names.front();
  Slot slot;
  slot.items = graph_.add_initializer(own_name ? hint + "_stacked" : hint, stacked(parts));
  bytes_after_ += constant(slot.items)->nbytes();
  if (parts.size() == values.size()) return slot;
  const auto turns = static_cast<std::int64_t>(values.size());
  slot.table = graph_.add_initializer(hint + "_table", Tensor::of<std::int64_t>({turns}, table));
  bytes_after_ += constant(slot.table)->nbytes();
  return slot;
}

// Concat(Unsqueeze(x0), Unsqueeze(x1), ...)
Value* RolledRun::joined_at_run_time(const std::vector<Value*>& values) {
  Value* axes = nullptr;
  if (graph_.opset() >= 13) {
    axes = graph_.add_initializer("axis_of_blocks", Tensor::of<std::int64_t>({1}, std::vector<std::int64_t>{0}));
  }
  std::vector<Value*> rows;
  std::vector<std::string> names;
  for (Value* value : values) {
    NodeSpec spec = spec_of("Unsqueeze", {value}, value->name() + "_row", with_first_axis(value->type(), 1));
    if (axes != nullptr) {
      spec.inputs.push_back(axes);
    } else {
      spec.attributes.emplace_back("axes", std::vector<std::int64_t>{0});
    }
    spec.name = value->name() + "_row";
    rows.push_back(graph_.insert(std::move(spec), before_)->output());
    names.push_back(value->name());
  }
  const std::string hint = common_name(names) + "_stacked";
  NodeSpec spec = spec_of("Concat", rows, hint, with_first_axis(values[0]->type(), values.size()));
  spec.attributes.emplace_back("axis", std::int64_t{0});
  spec.name = hint;
  return graph_.insert(std::move(spec), before_)->output();
}

void RolledRun::begin_body() {
  body_ = std::make_unique<Graph>(&graph_);
  inner_ = body_.get();
  inner_->name = "block";
  if (form_ == RolledForm::kLoop) {
    turn_ = inner_->add_input("turn", Type::tensor(DType::kInt64, std::vector<std::int64_t>{}));
    go_on_ = inner_->add_input("go_on", Type::tensor(DType::kBool, std::vector<std::int64_t>{}));
  }
  for (std::size_t c = 0; c < repeat_.carried.size(); ++c) {
    const Repeat::Carried& carried = repeat_.carried[c];
    Type type = agreed(merged_type(carried.node, carried.output), repeat_.carried_in[0][c]->type());
    if (type.dtype == DType::kUndefined) type.dtype = merged_type(carried.node, carried.output).dtype;
    carried_.push_back(inner_->add_input(merged_name(carried.node, carried.output) + "_in", std::move(type)));
  }
}

void RolledRun::pick_slots() {
  const bool scan = form_ == RolledForm::kScan;
  for (Slot& slot : slots_) {
    Value* along = slot.table != nullptr ? slot.table : slot.items;  // has an item for every turn
    Value* item = nullptr;
    if (scan) {
      scanned_.push_back(along);
      item = inner_->add_input(along->name() + "_item", without_first_axis(along->type()));
    } else {
      item = picked(along, turn_);
    }
    slot.inside = slot.table != nullptr ? picked(slot.items, item) : item;
  }
}

Value* RolledRun::picked(Value* items, Value* index) {
  NodeSpec spec = spec_of("Gather", {items, index}, items->name() + "_item", without_first_axis(items->type()));
  spec.attributes.emplace_back("axis", std::int64_t{0});
  spec.name = items->name() + "_item";
  return inner_->insert(std::move(spec))->output();
}

Value* RolledRun::inside(int node, std::size_t i) {
  const BlockOperand& operand = repeat_.operands[static_cast<std::size_t>(node)][i];
  const auto index = static_cast<std::size_t>(operand.index);
  switch (operand.kind) {
    case Kind::kOmitted:
      return nullptr;
    case Kind::kInner:
      return copies_[index]->output(static_cast<std::size_t>(operand.output));
    case Kind::kShared:
      return shared_inside(*repeat_.blocks.back()[static_cast<std::size_t>(node)], *repeat_.shared[index]);
    case Kind::kCarried:
      return carried_[index];
    case Kind::kVarying:
      return slots_[index].inside;
  }
  return nullptr;
}

// ONNX Runtime 1.32 does not load a DequantizeLinear in a body whose constants lie outside when its product can be made
// a MatMulNBits: the body owns them, unless something else reads them too.
Value* RolledRun::shared_inside(const Node& reader, Value& value) {
  if (!reader.is("DequantizeLinear") || constant(&value) == nullptr) return &value;
  if (const auto found = owned_.find(&value); found != owned_.end()) return found->second;
  for (const Use& use : value.uses()) {
    const bool own =
        use.node != nullptr && std::any_of(repeat_.blocks.begin(), repeat_.blocks.end(), [&](const auto& block) {
          return std::find(block.begin(), block.end(), use.node) != block.end();
        });
    if (!own) return owned_[&value] = &value;
  }
  return owned_[&value] = inner_->add_initializer(value.name(), *constant(&value));
}

void RolledRun::copy_nodes() {
  for (std::size_t k = 0; k < repeat_.node_count(); ++k) {
    const Node& model = *repeat_.blocks.back()[k];
    NodeSpec spec;
    spec.op_type = model.op_type();
    spec.domain = model.domain();
    std::vector<std::string> names;
    for (const auto& block : repeat_.blocks) names.push_back(block[k]->name);
    spec.name = common_name(names);
    std::unordered_map<const Value*, Value*> map;
    const std::vector<Value*>& operands = operations_.operands(model);
    for (std::size_t i = 0; i < operands.size(); ++i) {
      Value* value = inside(static_cast<int>(k), i);
      if (i < model.inputs().size()) {
        spec.inputs.push_back(value);
      } else {
        map[operands[i]] = value;  // captured by a subgraph
      }
    }
    for (std::size_t o = 0; o < model.outputs().size(); ++o) {
      OutputSpec made;
      made.omitted = model.output(o) == nullptr;
      if (!made.omitted) {
        made.name = merged_name(static_cast<int>(k), static_cast<int>(o));
        made.type = merged_type(static_cast<int>(k), static_cast<int>(o));
      }
      spec.outputs.push_back(std::move(made));
    }
    for (const Attribute& attribute : model.attributes()) {
      spec.attributes.push_back(copies_with_turn(attribute) ? cloned(attribute, *inner_, map) : attribute.copy());
    }
    Node* copy = inner_->insert(std::move(spec));
    copy->overload = model.overload;
    copy->doc_string = model.doc_string;
    copy->metadata = model.metadata;
    copies_.push_back(copy);
  }
}

// A value may be handed out once only.
Value* RolledRun::output_of_body(Value* value) {
  if (!value->is_graph_output() && value->producer() != nullptr) return value;
  NodeSpec spec = spec_of("Identity", {value}, value->name() + "_out", value->type());
  spec.name = value->name() + "_out";
  return inner_->insert(std::move(spec))->output();
}

void RolledRun::finish_body() {
  const auto made = [&](int node, int output) {
    return copies_[static_cast<std::size_t>(node)]->output(static_cast<std::size_t>(output));
  };
  if (go_on_ != nullptr) inner_->add_output(*output_of_body(go_on_));
  for (const Repeat::Carried& carried : repeat_.carried) {
    inner_->add_output(*output_of_body(made(carried.node, carried.output)));
  }
  for (const Repeat::Outside& outside : repeat_.outside) {
    inner_->add_output(*output_of_body(made(outside.node, outside.output)));
  }
}

Node* RolledRun::insert_node() {
  NodeSpec spec;
  spec.op_type = form_ == RolledForm::kScan ? "Scan" : "Loop";
  spec.name = "blocks";
  if (form_ == RolledForm::kLoop) {
    const auto turns = static_cast<std::int64_t>(repeat_.count());
    spec.inputs.push_back(graph_.add_initializer("number_of_blocks", Tensor::scalar(turns)));
    Tensor yes = Tensor::owned(DType::kBool, {}, Buffer{std::byte{1}});
    spec.inputs.push_back(graph_.add_initializer("always", std::move(yes)));
  }
  const std::vector<Value*>& initial = repeat_.carried_in[0];
  spec.inputs.insert(spec.inputs.end(), initial.begin(), initial.end());
  spec.inputs.insert(spec.inputs.end(), scanned_.begin(), scanned_.end());
  for (const Repeat::Carried& carried : repeat_.carried) {
    const Value* last =
        repeat_.blocks.back()[static_cast<std::size_t>(carried.node)]->output(static_cast<std::size_t>(carried.output));
    spec.outputs.push_back({last->name() + "_rolled", last->type(), false});
  }
  for (const Repeat::Outside& outside : repeat_.outside) {
    spec.outputs.push_back({merged_name(outside.node, outside.output) + "_collected",
                            with_first_axis(merged_type(outside.node, outside.output), repeat_.count()), false});
  }
  spec.attributes.emplace_back("body", std::move(body_));
  if (form_ == RolledForm::kScan) {
    spec.attributes.emplace_back("num_scan_inputs", static_cast<std::int64_t>(scanned_.size()));
  }
  return graph_.insert(std::move(spec), before_);
}

void RolledRun::replace_outside(Node& node) {
  for (std::size_t c = 0; c < repeat_.carried.size(); ++c) {
    const Repeat::Carried& carried = repeat_.carried[c];
    Value* last =
        repeat_.blocks.back()[static_cast<std::size_t>(carried.node)]->output(static_cast<std::size_t>(carried.output));
    stand_in(*last, *node.output(c));
  }
  for (std::size_t s = 0; s < repeat_.outside.size(); ++s) {
    const Repeat::Outside& outside = repeat_.outside[s];
    for (std::size_t t = 0; t < outside.wanted.size(); ++t) {
      if (!outside.wanted[t]) continue;
      Value* value =
          repeat_.blocks[t][static_cast<std::size_t>(outside.node)]->output(static_cast<std::size_t>(outside.output));
      Value* index = graph_.add_initializer("block", Tensor::scalar(static_cast<std::int64_t>(t)));
      NodeSpec spec = spec_of("Gather", {node.output(repeat_.carried.size() + s), index}, value->name(), value->type());
      spec.attributes.emplace_back("axis", std::int64_t{0});
      spec.name = value->name() + "_of_block";
      stand_in(*value, *graph_.insert(std::move(spec), before_)->output());
    }
  }
}

void RolledRun::stand_in(Value& value, Value& made) {
  names_.emplace_back(&made, value.name());
  if (!value.uses().empty()) graph_.replace_all_uses(value, made);
}

void RolledRun::erase_blocks() {
  std::vector<Value*> read;
  for (auto block = repeat_.blocks.rbegin(); block != repeat_.blocks.rend(); ++block) {
    for (auto node = block->rbegin(); node != block->rend(); ++node) {
      const std::vector<Value*>& operands = operations_.operands(**node);
      read.insert(read.end(), operands.begin(), operands.end());
      graph_.erase(**node);
    }
  }
  for (Value* value : read) {
    if (value != nullptr) erase_if_unused(graph_, *value);
  }
  for (const auto& [value, name] : names_) graph_.rename(*value, name);
}

}  // namespace onnxfold
