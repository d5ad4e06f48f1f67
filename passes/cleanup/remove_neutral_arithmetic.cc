// x + 0, 0 + x, x - 0, x * 1, 1 * x, x / 1, x ^ 1, And(x, true), Or(x, false) => x
//
// The neutral operand is constant, has one element (or is all neutral) and does not widen the result's shape or rank.
// Rounding: x + 0 turns -0 into +0, x does not.
#include <algorithm>

#include "passes/cleanup/shapes.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool all_are(const Value* value, double expected) {
  constexpr std::int64_t kLargest = 1 << 16;  // elements worth reading
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || tensor->size() > kLargest || tensor->size() == 0 || tensor->is_deferred()) return false;
  const auto numbers = to_doubles(*tensor);
  return numbers && std::all_of(numbers->begin(), numbers->end(), [&](double number) { return number == expected; });
}

// Does the neutral operand broadcast to the kept one without widening it?
bool keeps_shape(const Node& node, std::size_t kept) {
  const Value& operand = *node.input(kept);
  if (same_shape(operand, *node.output())) return true;
  const Tensor& neutral = *constant(node.input(1 - kept));
  if (!operand.type().shape || neutral.rank() > *operand.rank()) return false;
  const std::vector<Dim>& shape = *operand.type().shape;
  const std::size_t offset = shape.size() - neutral.dims().size();
  for (std::size_t i = 0; i < neutral.dims().size(); ++i) {
    const Dim& dim = shape[offset + i];
    if (neutral.dims()[i] != 1 && !(dim.known() && *dim.value == neutral.dims()[i])) return false;
  }
  return true;
}

// The operand that the node gives back, or null.
Value* unchanged_operand(const Node& node) {
  const bool sum = node.is("Add") || node.is("Or"), difference = node.is("Sub");
  const bool product = node.is("Mul") || node.is("And");
  if (!sum && !difference && !product && !node.is("Div") && !node.is("Pow")) return nullptr;
  if (node.opset() < 7 || node.input(0) == nullptr || node.input(1) == nullptr) return nullptr;
  const double neutral = sum || difference ? 0 : 1;
  for (std::size_t kept : {std::size_t{0}, std::size_t{1}}) {
    if (kept == 1 && !sum && !product) break;
    if (all_are(node.input(1 - kept), neutral) && keeps_shape(node, kept)) return node.input(kept);
  }
  return nullptr;
}

class RemoveNeutralArithmetic final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (node->erased() || !node->domain().empty()) continue;
      Value* operand = unchanged_operand(*node);
      if (operand != nullptr && replace_and_erase(graph, *node, *operand)) changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_remove_neutral_arithmetic(const PassOptions&) {
  return std::make_unique<RemoveNeutralArithmetic>();
}

}  // namespace onnxfold
