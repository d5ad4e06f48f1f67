// Mul(L(x, W, b), s) => L(x, W s, b s)   L: Conv, ConvTranspose, Gemm, MatMul, MatMul and Add; Div(., s) => W / s
//
// s is constant, one number or one per output channel; the result and the weight of L have no other reader; the bias,
// if any, is constant. One number passes Reshape, Transpose and their like between L and s (the scale of attention
// behind the heads). Computed in double and rounded once. Not for s with zeros under Div. Rounding.
#include <cmath>

#include "analysis/structure/linear.h"
#include "ir/match.h"
#include "passes/cleanup/linear_weights.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

class FoldLinearScale final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (node->erased() || (!node->is("Mul") && !node->is("Div")) || node->opset() < 7) continue;
      OF_ASSIGN(const bool folded, fold(graph, *node, context));
      changed = changed || folded;
    }
    return changed;
  }

 private:
  static Result<bool> fold(Graph& graph, Node& node, PassContext& context) {
    std::size_t operand = 0;
    if (!node.is("Div") && constant(node.input(0)) != nullptr) operand = 1;
    Value* data = node.input(operand);
    const Value* scale = node.input(1 - operand);
    if (constant(scale) == nullptr || data == nullptr) return false;
    Value* source = behind_moves(*data, *scale);
    std::string why;
    const auto plain = channel_linear(source, why);
    const auto biased = plain ? std::nullopt : linear_and_add(*source, why);
    if (!plain && !biased) {
      if (!why.empty()) context.skipped(node.label(), why);
      return false;
    }
    auto numbers = plain ? per_channel(scale, *plain) : last_axis(*scale, *biased);
    if (source != data) numbers = repeated(*scale, plain ? plain->channels : biased->out);
    if (!numbers) {
      context.skipped(node.label(), "the factor is not one number per output channel");
      return false;
    }
    for (double& factor : *numbers) {
      if (node.is("Div")) factor = 1.0 / factor;
      if (!std::isfinite(factor)) return false;
    }
    if (plain) {
      OF_TRY(scale_plain(graph, *plain, *numbers));
    } else {
      OF_TRY(scale_biased(graph, *biased, *numbers));
    }
    return replace_and_erase(graph, node, *node.input(operand));
  }

  // One number may be multiplied before elements are moved.
  static Value* behind_moves(Value& data, const Value& scale) {
    const Tensor& tensor = *scale.constant();
    if (tensor.size() != 1 || tensor.dtype() != data.dtype() || tensor.rank() > data.rank().value_or(0)) return &data;
    Value* at = &data;
    while (sole_consumer(at) != nullptr && at->producer() != nullptr && moves(*at->producer())) {
      at = at->producer()->input(0);
    }
    return at;
  }

  static bool moves(const Node& node) {
    return node.is("Reshape") || node.is("Transpose") || node.is("Squeeze") || node.is("Unsqueeze") ||
           node.is("Flatten") || node.is("Identity");
  }

  // MatMul and an Add behind it.
  static std::optional<Linear> linear_and_add(const Value& value, std::string& why) {
    const auto linear = linear_making(&value);
    if (!linear || linear->bias_add == nullptr) return std::nullopt;
    const bool shared = linear->product->input(1)->uses().size() != 1 || linear->weight->uses().size() != 1;
    if (sole_consumer(&value) == nullptr) {
      why = "the result has another reader";
    } else if (shared) {
      why = "the weight has another reader";
    } else if (linear->weight->constant()->size() > 0) {
      return linear;
    }
    return std::nullopt;
  }

  static std::optional<std::vector<double>> repeated(const Value& scale, std::int64_t count) {
    const auto number = scalar_constant(&scale);
    if (!number) return std::nullopt;
    return std::vector<double>(static_cast<std::size_t>(count), *number);
  }

  static std::optional<std::vector<double>> last_axis(const Value& scale, const Linear& linear) {
    const Tensor& tensor = *scale.constant();
    if (tensor.dtype() != linear.weight->constant()->dtype()) return std::nullopt;
    if (tensor.rank() > linear.output->rank().value_or(1)) return std::nullopt;
    if (tensor.size() == 1) return repeated(scale, linear.out);
    if (tensor.size() != linear.out || tensor.dims().back() != linear.out) return std::nullopt;
    auto numbers = to_doubles(tensor);
    return numbers ? std::optional(std::move(*numbers)) : std::nullopt;
  }

  static Status scale_plain(Graph& graph, const ChannelLinear& linear, const std::vector<double>& scale) {
    OF_ASSIGN(const Tensor weight, scaled_weight(linear, scale));
    std::optional<Tensor> new_bias;
    if (linear.has_bias_slot && linear.node->input(2) != nullptr) {
      OF_ASSIGN(std::vector<double> bias, bias_of(linear));
      for (std::size_t c = 0; c < bias.size(); ++c) bias[c] *= scale[c];
      OF_ASSIGN(new_bias, bias_tensor(linear, bias));
    }
    set_weight_and_bias(graph, linear, weight, new_bias);
    return {};
  }

  static Status scale_biased(Graph& graph, const Linear& linear, const std::vector<double>& scale) {
    OF_ASSIGN(Matrix weight, weight_matrix(linear));
    OF_ASSIGN(std::vector<double> bias, bias_vector(linear));
    for (std::int64_t row = 0; row < weight.rows; ++row) {
      for (std::int64_t col = 0; col < weight.cols; ++col) weight.at(row, col) *= scale[static_cast<std::size_t>(col)];
    }
    for (std::size_t i = 0; i < bias.size(); ++i) bias[i] *= scale[i];
    OF_TRY(replace_linear(graph, linear, weight, &bias));
    return {};
  }
};

}  // namespace

std::unique_ptr<Pass> make_fold_linear_scale(const PassOptions&) { return std::make_unique<FoldLinearScale>(); }

}  // namespace onnxfold
