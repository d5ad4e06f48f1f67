// Loop(M, true, x){f} => Loop(steps, true, x){f}
//
// Changes the depth of a tied model, whose layers are one body that runs M times (roll-layers makes one of layers that
// share all of their weights, unroll-layers writes the result out). Only where every turn does the same: the body does
// not read the number of the turn, nothing is scanned, and nothing of single turns is read outside. Lossy.
#include <fmt/format.h>

#include "ir/match.h"
#include "passes/pass.h"
#include "passes/rewrite.h"
#include "passes/tie/fixed_loop.h"

namespace onnxfold {
namespace {

class SetSteps final : public Pass {
 public:
  explicit SetSteps(const PassOptions& options) : steps_(options.integer("steps")) {}

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
    Value* old = node.input(0);
    graph.set_input(node, 0, add_constant(graph, Tensor::scalar(steps_), old->name()));
    erase_if_unused(graph, *old);
    context.applied(node.label(), fmt::format("runs {} times instead of {}", steps_, loop->turns));
    return true;
  }

  static std::string obstacle(const Node& node, const FixedLoop& loop) {
    if (node.is("Scan")) return "turns differ: something is scanned";
    if (!loop.turn->uses().empty()) return "turns differ: the body reads the number of the turn";
    for (std::size_t s = 0; s < loop.collected.size(); ++s) {
      const Value* output = node.output(loop.initial.size() + s);
      if (output != nullptr && !output->uses().empty()) return "values of single turns are read";
    }
    return {};
  }

  std::int64_t steps_;
};

}  // namespace

std::unique_ptr<Pass> make_set_steps(const PassOptions& options) { return std::make_unique<SetSteps>(options); }

}  // namespace onnxfold
