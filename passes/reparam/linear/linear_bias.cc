#include "passes/reparam/linear/linear_bias.h"

#include <algorithm>
#include <cmath>

#include "ir/numeric.h"
#include "passes/rewrite.h"

namespace onnxfold {

void remove_bias(Graph& graph, const Linear& linear) {
  if (linear.bias_add != nullptr) {
    replace_and_erase(graph, *linear.bias_add, *linear.product->output());
    return;
  }
  Value* old = linear.product->input(2);
  graph.set_input(*linear.product, 2, nullptr);
  linear.product->remove_attribute("beta");
  erase_if_unused(graph, *old);
}

bool has_place_for_bias(const Linear& linear) { return linear.bias != nullptr || linear.product->is("Gemm"); }

Result<bool> put_bias(Graph& graph, const Linear& linear, const Numbers& bias) {
  const DType dtype = linear.weight->constant()->dtype();
  const bool fits =
      std::all_of(bias.begin(), bias.end(), [dtype](double number) { return std::isfinite(round_to(dtype, number)); });
  if (!fits) return false;
  OF_ASSIGN(Tensor tensor, from_doubles(dtype, {linear.out}, bias));
  Node& node = linear.bias_add != nullptr ? *linear.bias_add : *linear.product;
  std::size_t at = 2;
  if (linear.bias_add != nullptr) at = node.input(0) == linear.product->output() ? 1 : 0;
  Value* old = node.input(at);
  const std::string hint = old != nullptr ? old->name() : linear.output->name() + "_bias";
  graph.set_input(node, at, add_constant(graph, std::move(tensor), hint));
  if (linear.bias_add == nullptr) node.remove_attribute("beta");
  if (old != nullptr) erase_if_unused(graph, *old);
  return true;
}

}  // namespace onnxfold
