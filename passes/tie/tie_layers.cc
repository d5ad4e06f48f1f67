// L equal layers => K = L / B unique layers that are used B times (Relaxed Recursive Transformers, arXiv 2410.20672).
//
// Conditions: a residual stream of equal blocks (layer_stack.h). The Linears of layers that a looping ties read one
// constant. Norms and biases stay per layer, and so does every other constant. Lossy.
#include <fmt/format.h>

#include "analysis/algebra/matrix.h"
#include "passes/pass.h"
#include "passes/tie/layer_stack.h"
#include "passes/tie/loop_plan.h"
#include "passes/tie/shared_weight.h"

namespace onnxfold {
namespace {

// The Linears of one role that come to share a weight.
struct TieGroup {
  std::string role;
  std::vector<Linear> linears;
  std::size_t source = 0;  // which of them stepwise and lower keep
};

Result<Tensor> mean_weight(const std::vector<Linear>& linears) {
  Matrix mean;
  for (const Linear& linear : linears) {
    OF_ASSIGN(const Matrix weight, weight_matrix(linear));
    mean = mean.empty() ? weight : sum(mean, weight);
  }
  for (double& number : mean.data) number /= static_cast<double>(linears.size());
  return from_doubles(linears[0].weight->dtype(), {mean.rows, mean.cols}, mean.data);
}

class TieLayers final : public Pass {
 public:
  explicit TieLayers(const PassOptions& options)
      : loops_(options.integer("loops")),
        looping_(looping_named(options.text("looping"))),
        protect_first_(options.integer("protect-first")),
        protect_last_(options.integer("protect-last")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (&graph != &context.model().graph() || loops_ < 2) return false;
    std::vector<StructureNote> notes;
    const auto stacks =
        layer_stacks(graph, static_cast<std::size_t>(protect_first_), static_cast<std::size_t>(protect_last_), &notes);
    for (const StructureNote& note : notes) context.skipped(note.node, note.reason);
    if (stacks.empty()) context.skipped(graph.name, "no residual stream of equal blocks was found");
    std::vector<TieGroup> groups;
    for (const LayerStack& stack : stacks) OF_TRY(collect(stack, groups));
    std::vector<Tensor> weights;
    for (const TieGroup& group : groups) {
      OF_ASSIGN(Tensor weight, mean_weight(group.linears));
      weights.push_back(std::move(weight));
    }
    for (std::size_t i = 0; i < groups.size(); ++i) {
      const std::int64_t bytes = weights[i].nbytes();
      share_weight(graph, groups[i].linears, weights[i]);
      context.applied(groups[i].linears[0].product->label(),
                      fmt::format("{} of {} layers is one", groups[i].role, groups[i].linears.size()),
                      bytes * static_cast<std::int64_t>(groups[i].linears.size()), bytes);
    }
    return !groups.empty();
  }

 private:
  Status collect(const LayerStack& stack, std::vector<TieGroup>& groups) const {
    const std::size_t layers = stack.blocks.size();
    OF_ASSIGN(const auto table, looped_layers(looping_, layers, static_cast<std::size_t>(loops_)));
    for (std::size_t unique = 0; unique < layers / static_cast<std::size_t>(loops_); ++unique) {
      for (std::size_t role = 0; role < stack.roles.size(); ++role) {
        TieGroup group{stack.roles[role], {}, 0};
        bool tied = true;
        for (std::size_t layer = 0; layer < layers; ++layer) {
          if (table[layer] != unique) continue;
          group.linears.push_back(stack.linears[layer][role]);
          tied = tied && group.linears.back().product->input(1) == group.linears.front().product->input(1);
        }
        if (!tied) groups.push_back(std::move(group));
      }
    }
    return {};
  }

  const std::int64_t loops_;
  const Looping looping_;
  const std::int64_t protect_first_, protect_last_;
};

}  // namespace

std::unique_ptr<Pass> make_tie_layers(const PassOptions& options) { return std::make_unique<TieLayers>(options); }

}  // namespace onnxfold
