#include "passes/reparam/conv/branch_sum.h"

#include <algorithm>

#include "ir/match.h"
#include "passes/reparam/conv/channel_affine.h"

namespace onnxfold {
namespace {

using Numbers = std::vector<double>;

class Expansion {
 public:
  Expansion(const Graph& graph, std::size_t channels) : graph_(graph) { sum_.shift.assign(channels, 0.0); }

  // Adds scale * (what `node` computes); false when it is a term of its own.
  bool expand(const Node& node, const Numbers& scale) {
    if (node.graph() != &graph_ || node.output() == nullptr) return false;
    if (const auto affine = channel_affine(node)) {
      Numbers inner(scale);
      for (std::size_t c = 0; c < inner.size(); ++c) {
        sum_.shift[c] += scale[c] * affine->shift[c];
        inner[c] *= affine->scale[c];
      }
      ++sum_.passes;
      add(*affine->input, inner);
      return true;
    }
    if (!adds_branches(node)) return false;
    sum_.passes += static_cast<std::int64_t>(node.inputs().size()) - 1 + (node.is("Mean") ? 1 : 0);
    const double share = node.is("Mean") ? 1.0 / static_cast<double>(node.inputs().size()) : 1.0;
    for (std::size_t i = 0; i < node.inputs().size(); ++i) {
      Numbers inner(scale);
      for (double& number : inner) number *= node.is("Sub") && i == 1 ? -1.0 : share;
      add(*node.input(i), inner);
    }
    return true;
  }

  BranchSum take() { return std::move(sum_); }

 private:
  // Operands that neither widen one another's channels nor are constant.
  static bool adds_branches(const Node& node) {
    const bool pair = (node.is("Add") || node.is("Sub")) && node.opset() >= 7 && node.inputs().size() == 2;
    if (!pair && !((node.is("Sum") || node.is("Mean")) && node.inputs().size() > 1)) return false;
    const auto channels = channels_of(*node.output());
    return channels && std::all_of(node.inputs().begin(), node.inputs().end(), [&](const Value* input) {
             return input != nullptr && constant(input) == nullptr && channels_of(*input) == channels &&
                    input->rank() == node.output()->rank();
           });
  }

  void add(Value& value, const Numbers& scale) {
    const bool only_here = sole_consumer(&value) != nullptr && value.graph() == &graph_;
    if (only_here && value.producer() != nullptr && expand(*value.producer(), scale)) return;
    for (BranchTerm& term : sum_.terms) {
      if (term.value != &value) continue;
      for (std::size_t c = 0; c < scale.size(); ++c) term.scale[c] += scale[c];
      return;
    }
    sum_.terms.push_back({&value, scale, only_here});
  }

  const Graph& graph_;
  BranchSum sum_;
};

}  // namespace

std::optional<BranchSum> branch_sum(const Node& root) {
  if (root.output() == nullptr) return std::nullopt;
  const auto channels = channels_of(*root.output());
  if (!channels) return std::nullopt;
  const auto count = static_cast<std::size_t>(*channels);
  Expansion expansion(*root.graph(), count);
  if (!expansion.expand(root, Numbers(count, 1.0))) return std::nullopt;
  return expansion.take();
}

}  // namespace onnxfold
