// Loop(M, true, x){f} => Loop(steps, true, x){f}
//
// Changes the depth of a tied model, whose layers are one body that runs M times (roll-layers makes one of layers that
// share their weights, unroll-layers writes the result out). Where every turn does the same, nothing else changes.
// Where turns differ in constants (norms and corrections that tied layers keep, stacked and scanned or picked by the
// turn), turns=nearest gives turn t of the new depth those of the old turn at the same relative depth, floor((2 t + 1)
// turns / (2 steps)); without it such loops stay. Values of single turns must not be read outside. Lossy.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/match.h"
#include "passes/pass.h"
#include "passes/rewrite.h"
#include "passes/tie/fixed_loop.h"
#include "passes/tie/stacked_tensor.h"

namespace onnxfold {
namespace {

class SetSteps final : public Pass {
 public:
  explicit SetSteps(const PassOptions& options)
      : steps_(options.integer("steps")), nearest_(options.text("turns") == "nearest") {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (steps_ < 0) return fail(Code::kInvalidArgument, "set-steps needs the option steps: how often loops shall run");
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (!node->is("Loop") && !node->is("Scan")) continue;
      changed = set(graph, *node, context) || changed;
    }
    return changed;
  }

 private:
  bool set(Graph& graph, Node& node, PassContext& context) const {
    const auto loop = fixed_loop(node);
    if (!loop) {
      context.skipped(node.label(), loop.error().message);
      return false;
    }
    if (const std::string why = obstacle(node, *loop); !why.empty()) {
      context.skipped(node.label(), why);
      return false;
    }
    if (loop->turns == steps_) return false;
    std::string note = fmt::format("runs {} times instead of {}", steps_, loop->turns);
    if (differ(node, *loop)) {
      const std::vector<std::int64_t> from = old_turns(loop->turns);
      node.is("Scan") ? rescan(graph, node, *loop, from) : repick(graph, *loop, from);
      note += fmt::format(", with the constants of turns {}", fmt::join(from, ", "));
    }
    if (node.is("Loop")) replace_input(graph, node, 0, Tensor::scalar(steps_));
    context.applied(node.label(), note);
    return true;
  }

  static bool differ(const Node& node, const FixedLoop& loop) { return node.is("Scan") || !loop.turn->uses().empty(); }

  std::string obstacle(const Node& node, const FixedLoop& loop) const {
    for (std::size_t s = 0; s < loop.collected.size(); ++s) {
      const Value* output = node.output(loop.initial.size() + s);
      if (output != nullptr && !output->uses().empty()) return "values of single turns are read";
    }
    if (!differ(node, loop)) return {};
    if (!nearest_) {
      return node.is("Scan") ? "turns differ: something is scanned (turns=nearest picks from the turns there are)"
                             : "turns differ: the body reads the number of the turn (turns=nearest picks from those "
                               "there are)";
    }
    if (loop.turns == 0 || steps_ == 0) return "turns differ, and there are none to pick from";
    for (const FixedLoop::Scanned& scanned : loop.scanned) {
      const Tensor* whole = constant(scanned.whole);
      if (whole == nullptr || scanned.axis != 0 || scanned.backwards || !has_items(*whole)) {
        return "'" + scanned.whole->name() + "', which is scanned, is no stacked constant";
      }
    }
    return loop.turn == nullptr ? std::string() : picks_only(loop);
  }

  // The number of a turn may choose constants, but not be computed with.
  static std::string picks_only(const FixedLoop& loop) {
    for (const Use& use : loop.turn->uses()) {
      const bool pick = use.node != nullptr && use.node->graph() == loop.body && use.node->is("Gather") &&
                        use.index == 1 && use.node->attr_int("axis", 0) == 0 && constant(use.node->input(0)) != nullptr;
      if (!pick) return "the body computes with the number of the turn";
    }
    return {};
  }

  std::vector<std::int64_t> old_turns(std::int64_t turns) const {
    std::vector<std::int64_t> from;
    for (std::int64_t t = 0; t < steps_; ++t) from.push_back((2 * t + 1) * turns / (2 * steps_));
    return from;
  }

  static void replace_input(Graph& graph, Node& node, std::size_t index, Tensor tensor) {
    Value* old = node.input(index);
    graph.set_input(node, index, add_constant(graph, std::move(tensor), old->name()));
    erase_if_unused(graph, *old);
  }

  static void rescan(Graph& graph, Node& node, const FixedLoop& loop, const std::vector<std::int64_t>& from) {
    for (std::size_t k = 0; k < loop.scanned.size(); ++k) {
      const Tensor& whole = *constant(loop.scanned[k].whole);
      std::vector<Tensor> parts;
      for (const std::int64_t t : from) parts.push_back(item_of(whole, t));
      replace_input(graph, node, loop.initial.size() + k, stacked(parts));
    }
  }

  static void repick(Graph& graph, const FixedLoop& loop, const std::vector<std::int64_t>& from) {
    const auto steps = static_cast<std::int64_t>(from.size());
    Value* table = graph.add_initializer("old_turns", Tensor::of<std::int64_t>({steps}, from));
    Graph& body = *loop.turn->graph();
    const std::vector<Use> uses = loop.turn->uses();
    NodeSpec pick{"Gather", {table, loop.turn}, {{"old_turn", loop.turn->type()}}, {}, "", "old_turn"};
    pick.attributes.emplace_back("axis", std::int64_t{0});
    const std::vector<Node*> nodes = body.nodes();
    Value* old = body.insert(std::move(pick), nodes.front())->output();
    for (const Use& use : uses) body.set_input(*use.node, static_cast<std::size_t>(use.index), old);
  }

  std::int64_t steps_;
  bool nearest_;
};

}  // namespace

std::unique_ptr<Pass> make_set_steps(const PassOptions& options) { return std::make_unique<SetSteps>(options); }

}  // namespace onnxfold
