#include "passes/reparam/ffn/joined_linears.h"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/structure/activation.h"
#include "ir/match.h"
#include "passes/reparam/ffn/linear_affine.h"
#include "passes/reparam/parallel/branch_input.h"
#include "passes/reparam/parallel/parallel_sum.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

using Numbers = std::vector<double>;

struct Addend {
  SumTerm term;
  Linear linear;
  BranchInput input;
};

bool joined(const Value* sum, const Value& input, const std::vector<ActivationMatch>& activations) {
  const Node* reader = sum == nullptr ? nullptr : sole_consumer(sum);
  return (reader != nullptr && reader->is("Mul")) || (input.producer() != nullptr && input.producer()->is("Mul")) ||
         std::any_of(activations.begin(), activations.end(), [&](const ActivationMatch& activation) {
           return (sum != nullptr && activation.input == sum) || activation.output == &input;
         });
}

bool summable(const Addend& a, const Addend& b) {
  return a.linear.out == b.linear.out && a.linear.weight->dtype() == b.linear.weight->dtype() &&
         input_conflict(a.input, b.input).empty();
}

Status sum_group(Graph& graph, PassContext& context, const std::vector<Addend>& group) {
  const Addend& host = group.front();
  const bool fold = std::any_of(group.begin(), group.end(),
                                [&](const Addend& addend) { return !same_input(host.input, addend.input); });
  LinearAffine total;
  total.weight = {host.linear.in, host.linear.out, Numbers(static_cast<std::size_t>(host.linear.in * host.linear.out))};
  total.bias.assign(static_cast<std::size_t>(host.linear.out), 0.0);
  for (const Addend& addend : group) {
    OF_ASSIGN(const LinearAffine one, affine_of(addend.linear, fold ? &*addend.input.norm : nullptr));
    OF_ASSIGN(const Numbers factor, factor_of(addend.term, host.linear.out));
    for (std::size_t at = 0; at < total.weight.data.size(); ++at)
      total.weight.data[at] += factor[at % factor.size()] * one.weight.data[at];
    for (std::size_t c = 0; c < factor.size(); ++c) total.bias[c] += factor[c] * one.bias[c];
    total.biased = total.biased || one.biased;
  }
  if (fold) {
    OF_ASSIGN(Value * plain, plain_norm(graph, *host.input.norm));
    graph.set_input(*host.linear.product, 0, plain);
    erase_if_unused(graph, *host.input.value);
  }
  drop_factors(graph, host.term);
  OF_ASSIGN(const Linear merged,
            replace_linear(graph, host.linear, total.weight, total.biased ? &total.bias : nullptr));
  context.applied(merged.product->label(), fmt::format("the sum of {} Linears of one value", group.size()));
  for (std::size_t i = 1; i < group.size(); ++i) drop_term(graph, group[i].term);
  return {};
}

Result<bool> sum_linears(Graph& graph, PassContext& context, std::vector<Addend>& addends) {
  bool changed = false;
  while (addends.size() > 1) {
    std::vector<Addend> group = {addends.front()}, rest;
    for (std::size_t i = 1; i < addends.size(); ++i) {
      (summable(group.front(), addends[i]) ? group : rest).push_back(addends[i]);
    }
    addends = std::move(rest);
    if (group.size() < 2) continue;
    OF_TRY(sum_group(graph, context, group));
    changed = true;
  }
  return changed;
}

}  // namespace

Result<bool> merge_joined_linears(Graph& graph, PassContext& context) {
  const BranchInputs inputs(graph);
  const std::vector<ActivationMatch> activations = find_activations(graph);
  bool changed = false;
  for (const ParallelSum& sum : find_parallel_sums(graph)) {
    std::vector<Addend> addends;
    for (const SumTerm& term : sum.terms) {
      const auto linear = linear_making(term.branch);
      if (!linear || linear->output != term.branch || !closed(linear->nodes(), linear->output)) continue;
      if (term.value->uses().size() != 1 || !joined(sum.total, *linear->input, activations)) continue;
      addends.push_back({term, *linear, inputs.of(linear->input)});
    }
    OF_ASSIGN(const bool here, sum_linears(graph, context, addends));
    changed = changed || here;
  }
  return changed;
}

}  // namespace onnxfold
