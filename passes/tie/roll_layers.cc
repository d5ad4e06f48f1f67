// block(block(block(x))) => Loop or Scan of one block
//
// Runs of equal blocks, found by the shape of the graph alone (analysis/structure/repeats.h), become the body of one
// Loop or Scan. What all blocks read stays outside and is captured; constants that differ are joined along a new axis
// and picked by the turn; per-layer inputs (key-value caches) are joined at run time; what is read of single blocks
// (caches again, hidden states) is collected and picked afterwards, so that the signature stays. Where weights repeat
// with a period (tied layers), as many blocks as the period has make one body, which then captures them. Bodies of Loop
// and Scan with a known number of turns are left alone: they are rolled already. Exact.
#include <fmt/format.h>

#include "analysis/structure/repeats.h"
#include "ir/match.h"
#include "passes/pass.h"
#include "passes/rewrite.h"
#include "passes/tie/rolled_run.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kScanSince = 9;  // Scan of opset 8 has a batch axis everywhere

// Does a loop run this graph a fixed number of times?
bool rolled_already(const Graph& graph) {
  if (graph.parent() == nullptr) return false;
  for (const Node* node : graph.parent()->nodes()) {
    for (const Graph* inner : node->subgraphs()) {
      if (inner == &graph) return node->is("Scan") || (node->is("Loop") && constant(node->input(0)) != nullptr);
    }
  }
  return false;
}

// Exporters write what layers share as an Identity of the first one's constant.
bool read_through_identities(Graph& graph) {
  bool changed = false;
  for (Node* node : graph.nodes_of("Identity")) {
    Value *whole = node->input(0), *copy = node->output();
    if (copy == nullptr || copy->is_graph_output() || constant(whole) == nullptr) continue;
    changed = replace_and_erase(graph, *node, *whole) || changed;
  }
  return changed;
}

class RollLayers final : public Pass {
 public:
  explicit RollLayers(const PassOptions& options) : form_(options.text("form")) {
    search_.least_blocks = static_cast<std::size_t>(options.integer("min-blocks"));
    search_.blocks_in_body = static_cast<std::size_t>(options.integer("blocks-in-body"));
  }

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (rolled_already(graph)) return false;
    bool changed = read_through_identities(graph);
    // What a run reads may be made by another one: each is looked for in the graph as it is then.
    while (roll_one(graph, context)) {
      changed = true;
      OF_TRY(graph.sort_topologically());
    }
    return changed;
  }

 private:
  // What a Scan carries keeps its shape from turn to turn; a Loop does not mind.
  static bool keeps_shapes(const Repeat& repeat) {
    for (std::size_t c = 0; c < repeat.carried.size(); ++c) {
      const Repeat::Carried& carried = repeat.carried[c];
      for (std::size_t t = 0; t < repeat.count(); ++t) {
        const Node* node = repeat.blocks[t][static_cast<std::size_t>(carried.node)];
        const Value* made = node->output(static_cast<std::size_t>(carried.output));
        if (!same_shape(*repeat.carried_in[t][c], *made)) return false;
      }
    }
    return true;
  }

  RolledForm form_for(const Graph& graph, const Repeat& repeat) const {
    const bool can_scan = graph.opset() >= kScanSince && !repeat.varying.empty() && keeps_shapes(repeat);
    return form_ != "loop" && can_scan ? RolledForm::kScan : RolledForm::kLoop;
  }

  bool roll_one(Graph& graph, PassContext& context) {
    const Operations operations(graph);
    std::vector<std::pair<std::string, std::string>> skipped;
    NearRepeat nearest;
    for (const Repeat& repeat : find_repeats(graph, search_, &nearest)) {
      const std::string label = repeat.blocks[0][0]->label();
      RolledRun run(graph, repeat, operations, form_for(graph, repeat));
      if (const std::string obstacle = run.obstacle(); !obstacle.empty()) {
        skipped.emplace_back(
            label, fmt::format("{} equal blocks of {} nodes: {}", repeat.count(), repeat.node_count(), obstacle));
        continue;
      }
      const Node* node = run.write();
      rolled_ = true;
      context.applied(label,
                      fmt::format("{} blocks of {} nodes are one {}; {} values carried, {} varying, {} collected",
                                  repeat.count(), repeat.node_count(), node->op_type(), repeat.carried.size(),
                                  repeat.varying.size(), repeat.outside.size()),
                      run.bytes_before(), run.bytes_after());
      if (!repeat.before.empty()) context.note(label, "what is before these blocks is none of them: " + repeat.before);
      return true;
    }
    for (const auto& [label, why] : skipped) context.skipped(label, why);
    if (skipped.empty() && !rolled_ && graph.parent() == nullptr) {
      const std::string nothing =
          fmt::format("no {} blocks in a row are equal but for their weights", search_.least_blocks);
      context.note("layers", nearest.node.empty() ? nothing : nothing + "; nearest to it: " + nearest.reason);
    }
    return false;
  }

  std::string form_;
  RepeatOptions search_;
  bool rolled_ = false;  // anything so far
};

}  // namespace

std::unique_ptr<Pass> make_roll_layers(const PassOptions& options) { return std::make_unique<RollLayers>(options); }

}  // namespace onnxfold
