// x + FFN1(N1(x)) + FFN2(N2(x)) => x + FFN(N(x)), the hidden widths added
// act(A1 x + A2 x) => act((A1 + A2) x), C1 h + C2 h => (C1 + C2) h   branches joined before the nonlinearity
//
// Feed-forward layers, plain or gated, with the same activation, whose results meet in a tree of Adds (any order, layer
// scale per branch) and that read the same value or norms of the same value with the same epsilon. Up (and gate) are
// put side by side, down is stacked; different gains and biases of the norms go into up and gate first, and one norm
// without them is left. Inner values must have no other readers. Linears of a joined layer are summed: those that read
// the same value and whose sum an activation reads, and those that read a joined hidden value. M6, M8 and M1 of the
// method notes (structural reparameterization, arXiv 2511.19718). Rounding.
#include <fmt/format.h>

#include <algorithm>

#include "passes/pass.h"
#include "passes/reparam/ffn/joined_linears.h"
#include "passes/reparam/ffn/wide_layer.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool same_activation(const FeedForward& a, const FeedForward& b) {
  if (a.activation.has_value() != b.activation.has_value()) return false;
  if (!a.activation) return true;
  if (a.activation->kind != b.activation->kind) return false;
  // Slopes are attributes of the operators; chains have none.
  const Node &x = *a.activation->nodes.back(), &y = *b.activation->nodes.back();
  if (x.op_type() != y.op_type())
    return a.activation->kind != ActivationMatch::Kind::kElu && a.activation->kind != ActivationMatch::Kind::kLeakyRelu;
  return x.attr_float("alpha", -1) == y.attr_float("alpha", -1);
}

// The operators between up and down whose constants say nothing of the hidden width.
bool keeps_any_width(const FeedForward& layer) {
  const auto of_activation = [&](const Node* node) {
    return layer.activation && std::find(layer.activation->nodes.begin(), layer.activation->nodes.end(), node) !=
                                   layer.activation->nodes.end();
  };
  for (const Node* node : layer.nodes) {
    const bool linear =
        node == layer.up.product || node == layer.up.bias_add || node == layer.up.weight_transpose ||
        node == layer.down.product || node == layer.down.bias_add || node == layer.down.weight_transpose ||
        (layer.gate &&
         (node == layer.gate->product || node == layer.gate->bias_add || node == layer.gate->weight_transpose));
    if (linear || node == layer.product || of_activation(node)) continue;
    if (node->is("Split") && layer.packed()) continue;
    if (!node->is("Cast") && !node->is("Dropout") && !node->is("Identity")) return false;
  }
  return true;
}

std::string conflict(const FfnBranch& a, const FfnBranch& b) {
  if (std::string why = input_conflict(a.input, b.input); !why.empty()) return why;
  if (a.layer.gated() != b.layer.gated()) return "one is gated and the other is not";
  if (!same_activation(a.layer, b.layer)) return "its activation is another";
  if (a.layer.up.weight->dtype() != b.layer.up.weight->dtype()) return "its weights are of another type";
  if (a.layer.down.out != b.layer.down.out) return "its width is another";
  return {};
}

std::string unfit(const FeedForward& layer) {
  if (layer.inner_norm) return "a norm stands between up and down";
  if (layer.fused_bias != nullptr && !layer.fused_bias->is("BiasGelu", "com.microsoft") &&
      !layer.fused_bias->is("FastGelu", "com.microsoft"))
    return "its activation adds a bias";
  if (!closed(layer.nodes, layer.output)) return "an inner value is read elsewhere";
  return {};
}

class MergeParallelFfn final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    OF_ASSIGN(changed, merge_layers(graph, context));
    OF_ASSIGN(const bool joined, merge_joined_linears(graph, context));
    return changed || joined;
  }

 private:
  static Result<bool> merge_layers(Graph& graph, PassContext& context) {
    const std::vector<FeedForward> layers = find_feed_forwards(graph);
    if (layers.size() < 2) return false;
    const BranchInputs inputs(graph);
    bool changed = false;
    for (const ParallelSum& sum : find_parallel_sums(graph)) {
      std::vector<FfnBranch> branches;
      for (const SumTerm& term : sum.terms) {
        const auto layer = std::find_if(layers.begin(), layers.end(),
                                        [&](const FeedForward& each) { return each.output == term.branch; });
        if (layer == layers.end() || term.value->uses().size() != 1) continue;
        branches.push_back({term, *layer, inputs.of(layer->input)});
      }
      OF_ASSIGN(const bool here, merge(graph, context, branches));
      changed = changed || here;
    }
    return changed;
  }

  // Groups of branches that can share one layer; the first fit one of each takes the others in.
  static Result<bool> merge(Graph& graph, PassContext& context, std::vector<FfnBranch>& branches) {
    bool changed = false;
    if (branches.size() < 2) return false;
    std::erase_if(branches, [&](const FfnBranch& branch) {
      const std::string why = unfit(branch.layer);
      if (!why.empty()) context.skipped(branch.layer.down.product->label(), why);
      return !why.empty();
    });
    while (branches.size() > 1) {
      std::vector<FfnBranch> group = {branches.front()}, rest;
      for (std::size_t i = 1; i < branches.size(); ++i) {
        const std::string why = conflict(group.front(), branches[i]);
        if (!why.empty()) context.skipped(branches[i].layer.down.product->label(), why);
        (why.empty() ? group : rest).push_back(branches[i]);
      }
      OF_ASSIGN(const bool here, merge_group(graph, context, group));
      changed = changed || here;
      branches = std::move(rest);
    }
    return changed;
  }

  static Result<bool> merge_group(Graph& graph, PassContext& context, std::vector<FfnBranch>& group) {
    if (group.size() < 2) return false;
    const auto fit = std::find_if(group.begin(), group.end(), [](const FfnBranch& branch) {
      return keeps_any_width(branch.layer) && (!branch.layer.packed() || half_split(branch.layer) != nullptr);
    });
    if (fit == group.end()) {
      context.skipped(group.front().layer.down.product->label(), "the hidden width stands in shapes");
      return false;
    }
    std::iter_swap(group.begin(), fit);
    const FfnBranch& host = group.front();
    const bool fold = std::any_of(group.begin(), group.end(),
                                  [&](const FfnBranch& branch) { return !same_input(host.input, branch.input); });
    WideLayer wide(host);
    for (const FfnBranch& branch : group) OF_TRY(wide.add(branch, fold));
    if (fold) OF_TRY(read_plain_norm(graph, host));
    drop_factors(graph, host.term);
    OF_TRY(wide.write(graph));
    context.applied(host.layer.down.product->label(),
                    fmt::format("{} feed-forward layers side by side: hidden width {} to {}{}", group.size(),
                                host.layer.hidden, wide.hidden(), fold ? ", norms folded" : ""));
    for (std::size_t i = 1; i < group.size(); ++i) drop_term(graph, group[i].term);
    return true;
  }

  static Status read_plain_norm(Graph& graph, const FfnBranch& host) {
    OF_ASSIGN(Value * plain, plain_norm(graph, *host.input.norm));
    graph.set_input(*host.layer.up.product, 0, plain);
    if (host.layer.gate) graph.set_input(*host.layer.gate->product, 0, plain);
    erase_if_unused(graph, *host.input.value);
    return {};
  }
};

}  // namespace

std::unique_ptr<Pass> make_merge_parallel_ffn(const PassOptions&) { return std::make_unique<MergeParallelFfn>(); }

}  // namespace onnxfold
