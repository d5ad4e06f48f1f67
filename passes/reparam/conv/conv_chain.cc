#include "passes/reparam/conv/conv_chain.h"

#include <algorithm>

#include "ir/match.h"

namespace onnxfold {
namespace {

bool has_bias(const Node& node) {
  if (node.is("AveragePool") || node.input(2) == nullptr) return false;
  const auto bias = to_doubles(*node.input(2)->constant());
  return !bias || std::any_of(bias->begin(), bias->end(), [](double number) { return number != 0; });
}

// How often `second` reads the inner map per output position, at most.
std::int64_t inner_positions(const ConvShape& second) {
  std::int64_t count = 1;
  for (const ConvAxis& axis : second.geometry.axes) count *= axis.stride;
  return count;
}

std::int64_t weight_count(const Node& node) {
  const Tensor* weight = constant(node.input(1));
  return weight == nullptr ? 0 : weight->size();
}

}  // namespace

std::int64_t ConvChain::work() const {
  return first_shape.work() * inner_positions(second_shape) + second_shape.work();
}

std::int64_t ConvChain::weights() const { return weight_count(*first) + weight_count(*second); }

std::optional<ConvChain> conv_chain(const Node& second, std::string& why) {
  why.clear();
  if (!is_conv_like(second) || second.input(0) == nullptr) return std::nullopt;
  Node* first = second.input(0)->producer();
  if (first == nullptr || !is_conv_like(*first) || first->graph() != second.graph()) return std::nullopt;
  ConvChain chain{first, sole_consumer(first->output()), {}, {}, {}};
  if (chain.second == nullptr || second.input(0)->dtype() != first->input(0)->dtype()) return std::nullopt;
  const auto a = conv_shape(*first, why);
  const auto b = a ? conv_shape(second, why) : std::nullopt;
  if (!a || !b) return std::nullopt;
  chain.first_shape = *a;
  chain.second_shape = *b;
  if (a->geometry.transposed || b->geometry.transposed) return std::nullopt;
  const bool zero_outside = a->geometry.taps() == 1 && !has_bias(*first);
  const auto shape = chained_shape(*a, *b, zero_outside);
  if (!shape) {
    why = "padding between the two convolutions is not what one convolution would read there";
    return std::nullopt;
  }
  chain.shape = *shape;
  return chain;
}

Result<ConvKernel> conv_kernel(const ConvChain& chain) {
  OF_ASSIGN(const ConvKernel first, conv_kernel(*chain.first, chain.first_shape));
  OF_ASSIGN(const ConvKernel second, conv_kernel(*chain.second, chain.second_shape));
  return chained_kernel(chain.shape, first, second);
}

}  // namespace onnxfold
