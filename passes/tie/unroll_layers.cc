// Loop or Scan with a known number of turns => its body, so many times
//
// Constants of the body are kept once for all turns. Joined constants that the turn picks from become single ones
// again, each once however many turns read it; joined inputs are read directly; picks from what was collected read the
// turn's own value. So roll-layers is undone up to names. Loops whose condition is computed, whose number of turns is
// not constant or that would make more than max-nodes nodes stay, with a remark. Exact.
#include <fmt/format.h>

#include <map>
#include <set>

#include "ir/match.h"
#include "passes/inline_graph.h"
#include "passes/pass.h"
#include "passes/rewrite.h"
#include "passes/tie/block_names.h"
#include "passes/tie/fixed_loop.h"
#include "passes/tie/stacked_tensor.h"

namespace onnxfold {
namespace {

// Items of the first axis, each made once.
class Items {
 public:
  explicit Items(Graph& graph) : graph_(graph) {}

  // The value of an item without a node that picks it; null where there is none.
  Value* direct(Value* whole, std::int64_t index) {
    if (const Tensor* tensor = constant(whole)) {
      if (!has_items(*tensor) || !in_range(tensor->dims()[0], index)) return nullptr;
      Value*& made = made_[{whole, index}];
      if (made == nullptr) {
        made = graph_.add_initializer(name_of_turn(whole->name(), index), item_of(*tensor, index));
      }
      return made;
    }
    return row_of_concat(whole, index);
  }

  // Any item along any axis, picked by a Gather where there is no other way.
  Value* item(Value* whole, std::int64_t axis, std::int64_t index, const Value& like, const Node& before) {
    if (axis == 0) {
      if (Value* found = direct(whole, index)) return found;
    }
    NodeSpec spec;
    spec.op_type = "Gather";
    spec.inputs = {whole, graph_.add_initializer("turn", Tensor::scalar(index))};
    spec.outputs.push_back({name_of_turn(like.name(), index), like.type(), false});
    spec.attributes.emplace_back("axis", axis);
    spec.name = name_of_turn(like.name(), index);
    return graph_.insert(std::move(spec), &before)->output();
  }

  // Gather(whole, constant number) along the first axis: the item itself, if it exists.
  Value* picked_by(const Node& node) {
    if (!node.is("Gather") || node.attr_int("axis", 0) != 0 || node.input(0) == nullptr) return nullptr;
    const Tensor* index = constant(node.input(1));
    if (index == nullptr || index->rank() != 0) return nullptr;
    const auto number = int_constants(node.input(1));
    return number ? direct(node.input(0), (*number)[0]) : nullptr;
  }

 private:
  static bool in_range(std::int64_t size, std::int64_t& index) {
    if (index < 0) index += size;
    return index >= 0 && index < size;
  }

  // Concat(Unsqueeze(x0), Unsqueeze(x1), ...) along the first axis
  static Value* row_of_concat(const Value* whole, std::int64_t index) {
    const Node* concat = whole->producer();
    if (concat == nullptr || !concat->is("Concat") || concat->attr_int("axis", -1) != 0) return nullptr;
    if (!in_range(static_cast<std::int64_t>(concat->inputs().size()), index)) return nullptr;
    for (const Value* row : concat->inputs()) {
      const Node* node = row->producer();
      if (node == nullptr || !node->is("Unsqueeze")) return nullptr;
      const auto axes = node->input(1) != nullptr ? int_constants(node->input(1)) : node->attr_ints("axes");
      if (!axes || *axes != std::vector<std::int64_t>{0}) return nullptr;
    }
    return concat->input(static_cast<std::size_t>(index))->producer()->input(0);
  }

  Graph& graph_;
  std::map<std::pair<const Value*, std::int64_t>, Value*> made_;
};

class Unrolling {
 public:
  Unrolling(Graph& graph, Node& node, const FixedLoop& loop) : graph_(graph), node_(node), loop_(loop), items_(graph) {}

  void run() {
    keep_constants();
    note_captured(*loop_.body);
    state_ = loop_.initial;
    collected_.resize(loop_.collected.size());
    for (std::int64_t t = 0; t < loop_.turns; ++t) turn(t);
    replace();
  }

 private:
  // Constants of the body, once for all turns.
  void keep_constants() {
    for (Value* value : loop_.body->initializers()) {
      fixed_[value] = graph_.add_initializer(value->name(), *value->initializer());
    }
    for (const Node* node : loop_.body->nodes_of("Constant")) {
      if (node->output() == nullptr || node->output()->constant() == nullptr) continue;
      fixed_[node->output()] = graph_.add_initializer(node->output()->name(), *node->output()->constant());
    }
    if (loop_.go_on != nullptr) {
      Tensor yes = Tensor::owned(DType::kBool, {}, Buffer{std::byte{1}});
      fixed_[loop_.go_on] = graph_.add_initializer("always", std::move(yes));
    }
  }

  // What only the loop read may go with it.
  void note_captured(const Graph& body) {
    for (const Node* node : body.nodes()) {
      for (Value* value : node->inputs()) {
        if (value != nullptr && value->graph() == &graph_) unread_.push_back(value);
      }
      for (const Graph* inner : node->subgraphs()) note_captured(*inner);
    }
  }

  void turn(std::int64_t t) {
    ValueMap map = fixed_;
    Value* number = loop_.turn == nullptr ? nullptr : shaped_turn(t);
    if (number != nullptr) map[loop_.turn] = number;
    for (std::size_t c = 0; c < loop_.carried_in.size(); ++c) map[loop_.carried_in[c]] = state_[c];
    for (const FixedLoop::Scanned& scanned : loop_.scanned) {
      const std::int64_t at = scanned.backwards ? loop_.turns - 1 - t : t;
      map[scanned.inside] = items_.item(scanned.whole, scanned.axis, at, *scanned.inside, node_);
    }
    inline_graph(graph_, *loop_.body, node_, map);
    tidy(map, t);
    for (std::size_t c = 0; c < state_.size(); ++c) state_[c] = handed_out(loop_.carried_out[c], map);
    for (std::size_t s = 0; s < collected_.size(); ++s) {
      collected_[s].push_back(handed_out(loop_.collected[s].inside, map));
    }
    if (loop_.go_on != nullptr) handed_out(loop_.body->outputs()[0], map);
    if (number != nullptr) unread_.push_back(number);
  }

  // Exporters declare the number of the turn as a scalar or as a list of one.
  Value* shaped_turn(std::int64_t t) {
    const auto rank = loop_.turn->rank();
    Tensor number =
        rank && *rank == 1 ? Tensor::of<std::int64_t>({1}, std::vector<std::int64_t>{t}) : Tensor::scalar(t);
    return graph_.add_initializer("turn", std::move(number));
  }

  // What the turn hands out. A body needs Identity nodes there that a plain graph does not.
  Value* handed_out(Value* value, const ValueMap& map) {
    const auto found = map.find(value);
    Value* made = found == map.end() ? value : found->second;
    unread_.push_back(made);
    const Node* node = value->graph() == loop_.body ? value->producer() : nullptr;
    return node != nullptr && node->is("Identity") ? handed_out(node->input(0), map) : made;
  }

  // Names the copies after their turn and lets picks of the turn's items go.
  void tidy(ValueMap& map, std::int64_t t) {
    for (const Node* model : loop_.body->nodes()) {
      if (model->output() == nullptr || fixed_.contains(model->output())) continue;
      Value* made = map.at(model->output());
      Node* copy = made->producer();
      copy->name = name_of_turn(copy->name, t);
      if (Value* item = items_.picked_by(*copy)) {
        graph_.replace_all_uses(*made, *item);
        map[model->output()] = item;
        for (auto& [inner, outer] : map) outer = outer == made ? item : outer;
        erase_with_dead_inputs(graph_, *copy);
        continue;
      }
      for (std::size_t o = 0; o < model->outputs().size(); ++o) {
        if (model->output(o) != nullptr) graph_.rename(*copy->output(o), name_of_turn(model->output(o)->name(), t));
      }
    }
  }

  void replace() {
    std::vector<Value*> results = state_;
    for (std::size_t s = 0; s < collected_.size(); ++s) {
      Value* output = node_.output(state_.size() + s);
      if (output == nullptr || output->uses().empty()) {
        results.push_back(nullptr);
        continue;
      }
      read_directly(*output, s);
      results.push_back(output->uses().empty() ? nullptr : joined(s, *output));
    }
    replace_by(graph_, node_, results);
    for (const auto& [inner, outer] : fixed_) unread_.push_back(outer);
    for (Value* value : unread_) erase_if_unused(graph_, *value);
  }

  // Picks of single turns from what was collected.
  void read_directly(Value& output, std::size_t s) {
    if (loop_.collected[s].axis != 0 || loop_.turns == 0) return;
    const std::vector<Use> uses = output.uses();
    for (const Use& use : uses) {
      if (use.node == nullptr || use.node->graph() != &graph_ || !use.node->is("Gather") || use.index != 0) continue;
      const Tensor* index = constant(use.node->input(1));
      const auto number = int_constants(use.node->input(1));
      if (use.node->attr_int("axis", 0) != 0 || index == nullptr || index->rank() != 0 || !number) continue;
      std::int64_t at = (*number)[0] < 0 ? (*number)[0] + loop_.turns : (*number)[0];
      if (at < 0 || at >= loop_.turns) continue;
      if (loop_.collected[s].backwards) at = loop_.turns - 1 - at;
      Value* value = collected_[s][static_cast<std::size_t>(at)];
      if (value->graph() == &graph_) replace_and_erase(graph_, *use.node, *value);
    }
  }

  // Concat of rows, as the node collected them.
  Value* joined(std::size_t s, const Value& output) {
    const FixedLoop::Collected& how = loop_.collected[s];
    if (loop_.turns == 0) return nothing(output);
    std::vector<Value*> rows;
    for (std::int64_t t = 0; t < loop_.turns; ++t) {
      const std::int64_t at = how.backwards ? loop_.turns - 1 - t : t;
      Value* value = collected_[s][static_cast<std::size_t>(at)];
      NodeSpec spec;
      spec.op_type = "Unsqueeze";
      spec.inputs = {value};
      if (graph_.opset() >= 13) {
        spec.inputs.push_back(
            graph_.add_initializer("axis", Tensor::of<std::int64_t>({1}, std::vector<std::int64_t>{how.axis})));
      } else {
        spec.attributes.emplace_back("axes", std::vector<std::int64_t>{how.axis});
      }
      spec.outputs.push_back({value->name() + "_row", Type::tensor(value->dtype()), false});
      rows.push_back(graph_.insert(std::move(spec), &node_)->output());
    }
    NodeSpec spec;
    spec.op_type = "Concat";
    spec.inputs = std::move(rows);
    spec.attributes.emplace_back("axis", how.axis);
    spec.outputs.push_back({output.name(), output.type(), false});
    return graph_.insert(std::move(spec), &node_)->output();
  }

  // REQUIRES: a static shape but for the new axis (checked before).
  Value* nothing(const Value& output) {
    Dims dims;
    for (const Dim& dim : *output.type().shape) dims.push_back(dim.known() ? *dim.value : 0);
    return graph_.add_initializer(output.name(), Tensor::owned(output.dtype(), std::move(dims), {}));
  }

  Graph& graph_;
  Node& node_;
  const FixedLoop& loop_;
  Items items_;
  ValueMap fixed_;
  std::vector<Value*> state_;
  std::vector<std::vector<Value*>> collected_;  // [output][turn]
  std::vector<Value*> unread_;                  // perhaps
};

class UnrollLayers final : public Pass {
 public:
  explicit UnrollLayers(const PassOptions& options) : most_nodes_(options.integer("max-nodes")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (bool again = true; again;) {  // a body may hold a loop itself
      again = false;
      for (Node* node : graph.nodes()) {
        if (!node->is("Loop") && !node->is("Scan")) continue;
        again = unroll(graph, *node, context) || again;
      }
      changed = changed || again;
    }
    return changed;
  }

 private:
  bool unroll(Graph& graph, Node& node, PassContext& context) {
    const auto loop = fixed_loop(node);
    if (!loop) {
      if (skipped_.insert(&node).second) context.skipped(node.label(), loop.error().message);
      return false;
    }
    const auto nodes = static_cast<std::int64_t>(loop->body->node_count());
    std::int64_t total = 0;
    std::string why;
    if (__builtin_mul_overflow(nodes, loop->turns, &total) || total > most_nodes_) {
      why = fmt::format("{} turns of {} nodes are more than max-nodes {}", loop->turns, nodes, most_nodes_);
    }
    if (loop->turns == 0 && !empty_results_known(node, *loop)) why = "no turn, and the shape of a result is not known";
    if (!why.empty()) {
      if (skipped_.insert(&node).second) context.skipped(node.label(), why);
      return false;
    }
    context.applied(node.label(), fmt::format("{} turns of {} nodes", loop->turns, nodes));
    Unrolling(graph, node, *loop).run();
    return true;
  }

  static bool empty_results_known(const Node& node, const FixedLoop& loop) {
    for (std::size_t s = 0; s < loop.collected.size(); ++s) {
      const Value* output = node.output(loop.initial.size() + s);
      if (output == nullptr || output->uses().empty()) continue;
      if (output->dtype() == DType::kUndefined || !output->type().shape) return false;
      std::size_t unknown = 0;
      for (const Dim& dim : *output->type().shape) unknown += dim.known() ? 0 : 1;
      if (unknown > 1) return false;
    }
    return true;
  }

  std::int64_t most_nodes_;
  std::set<const Node*> skipped_;
};

}  // namespace

std::unique_ptr<Pass> make_unroll_layers(const PassOptions& options) { return std::make_unique<UnrollLayers>(options); }

}  // namespace onnxfold
