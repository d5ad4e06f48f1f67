// BatchNormalization(Reshape(MatMul(x, W))) => Reshape(MatMul(x, W') + b')   also Add, Sub, Mul, Div, Neg per channel
//
// s * y + t per output channel of a Linear, right behind it or behind nodes that only move or average positions
// (Flatten, Transpose, means): W'[i,o] = W[i,o] s[o], b'[o] = b[o] s[o] + t[o], in double, rounded once. LeViT and its
// like normalize the rows of a Linear so. Nothing else reads what lies between. A Linear without a bias gets an Add in
// the place of the normalization; an addition alone stays then. Rounding.
#include <algorithm>
#include <cmath>

#include "analysis/structure/linear.h"
#include "ir/match.h"
#include "ir/numeric.h"
#include "passes/pass.h"
#include "passes/reparam/conv/channel_affine.h"
#include "passes/reparam/conv/channel_axis.h"
#include "passes/reparam/linear/linear_bias.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool all_equal(const Numbers& numbers, double number) {
  return std::all_of(numbers.begin(), numbers.end(), [number](double each) { return each == number; });
}

// The Linear whose output channels lie on axis 1 of `value`, and nothing else reads it or what lies between.
std::optional<Linear> linear_behind(Value* value, const Graph& graph) {
  std::int64_t axis = 1;
  constexpr int kLongestChain = 16;
  for (int step = 0; step < kLongestChain; ++step) {
    const Node* producer = value->producer();
    if (producer == nullptr || producer->graph() != &graph || sole_consumer(value) == nullptr) return std::nullopt;
    if (const auto linear = linear_making(value)) {
      const bool last = axis == value->rank().value_or(0) - 1;
      return last && linear->output == value ? linear : std::nullopt;
    }
    const auto rank = producer->input(0) == nullptr ? std::nullopt : producer->input(0)->rank();
    std::optional<std::int64_t> before;
    for (std::int64_t each = 0; each < rank.value_or(0) && !before; ++each) {
      if (channel_axis_after(*producer, each) == axis) before = each;
    }
    if (!before) return std::nullopt;
    axis = *before;
    value = producer->input(0);
  }
  return std::nullopt;
}

class FoldOutputAffine final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (node->erased()) continue;
      const auto affine = channel_affine(*node);
      if (!affine || affine->input == nullptr) continue;
      const auto linear = linear_behind(affine->input, graph);
      if (!linear || linear->out != static_cast<std::int64_t>(affine->scale.size())) continue;
      if (linear->bias_add == node || linear->weight->dtype() != affine->input->dtype()) continue;
      if (all_equal(affine->scale, 1.0) && !has_place_for_bias(*linear)) continue;
      const std::string label = node->label();
      OF_ASSIGN(const bool folded, fold(graph, *node, *affine, *linear));
      if (!folded) context.skipped(label, "a weight is out of the range of its type");
      changed = changed || folded;
    }
    return changed;
  }

 private:
  static Result<bool> fold(Graph& graph, Node& node, const ChannelAffine& affine, const Linear& linear) {
    OF_ASSIGN(Matrix weight, weight_matrix(linear));
    OF_ASSIGN(Numbers bias, bias_vector(linear));
    for (std::int64_t col = 0; col < weight.cols; ++col) {
      const auto channel = static_cast<std::size_t>(col);
      for (std::int64_t row = 0; row < weight.rows; ++row) weight.at(row, col) *= affine.scale[channel];
      bias[channel] = bias[channel] * affine.scale[channel] + affine.shift[channel];
    }
    const DType dtype = affine.input->dtype();
    const auto finite = [dtype](double number) { return std::isfinite(round_to(dtype, number)); };
    if (!std::all_of(weight.data.begin(), weight.data.end(), finite)) return false;
    if (!std::all_of(bias.begin(), bias.end(), finite)) return false;
    const bool biased = linear.bias != nullptr || !all_equal(bias, 0.0);
    OF_TRY(replace_linear(graph, linear, weight, biased ? &bias : nullptr));
    return replace_and_erase(graph, node, *node.input(affine_operand(node)));
  }

  // Which operand is not constant.
  static std::size_t affine_operand(const Node& node) { return constant(node.input(0)) != nullptr ? 1 : 0; }
};

}  // namespace

std::unique_ptr<Pass> make_fold_output_affine(const PassOptions&) { return std::make_unique<FoldOutputAffine>(); }

}  // namespace onnxfold
