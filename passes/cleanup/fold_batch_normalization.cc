// BatchNormalization(Conv(x, W, b), gamma, beta, mean, var) => Conv(x, W', b')   also ConvTranspose and Gemm
//
// W'[c] = W[c] s[c], b'[c] = (b[c] - mean[c]) s[c] + beta[c], s = gamma / sqrt(var + epsilon), in double, rounded once.
// In inference, with constant parameters; the convolution's result and weight have no other reader.
// Rounding.
#include <cmath>

#include "passes/cleanup/linear_weights.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool is_inference(const Node& node) {
  for (std::size_t i = 1; i < node.outputs().size(); ++i) {
    if (node.output(i) != nullptr && !node.output(i)->uses().empty()) return false;
  }
  if (node.opset() < 7) return node.attr_int("is_test", 0) == 1;
  return node.attr_int("training_mode", 0) == 0 && node.attr_int("spatial", 1) == 1;
}

// gamma, beta, mean, var; nullopt unless each is a constant of one element per channel.
std::optional<std::vector<std::vector<double>>> parameters(const Node& node, std::int64_t channels) {
  std::vector<std::vector<double>> result;
  for (std::size_t i = 1; i <= 4; ++i) {
    const Tensor* tensor = constant(node.input(i));
    if (tensor == nullptr || tensor->size() != channels || !is_float(tensor->dtype())) return std::nullopt;
    auto numbers = to_doubles(*tensor);
    if (!numbers) return std::nullopt;
    result.push_back(std::move(*numbers));
  }
  return result;
}

class FoldBatchNormalization final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes_of("BatchNormalization")) {
      OF_ASSIGN(const bool folded, fold(graph, *node, context));
      changed = changed || folded;
    }
    return changed;
  }

 private:
  static Result<bool> fold(Graph& graph, Node& node, PassContext& context) {
    std::string why;
    const auto linear = channel_linear(node.input(0), why);
    if (!linear) {
      if (!why.empty()) context.skipped(node.label(), why);
      return false;
    }
    if (!linear->has_bias_slot) return false;
    const auto given = parameters(node, linear->channels);
    if (!is_inference(node) || !given) {
      context.skipped(node.label(), "not in inference with constant parameters");
      return false;
    }
    const auto& [gamma, beta, mean, variance] = std::tie((*given)[0], (*given)[1], (*given)[2], (*given)[3]);
    const double epsilon = static_cast<double>(node.attr_float("epsilon", 1e-5F));
    OF_ASSIGN(std::vector<double> bias, bias_of(*linear));
    std::vector<double> scale(bias.size());
    for (std::size_t c = 0; c < scale.size(); ++c) {
      scale[c] = gamma[c] / std::sqrt(variance[c] + epsilon);
      bias[c] = (bias[c] - mean[c]) * scale[c] + beta[c];
      if (!std::isfinite(scale[c]) || !std::isfinite(bias[c])) {
        context.skipped(node.label(), "a scale is not finite");
        return false;
      }
    }
    OF_ASSIGN(const Tensor weight, scaled_weight(*linear, scale));
    OF_ASSIGN(Tensor new_bias, bias_tensor(*linear, bias));
    Value& result = *linear->node->output();
    set_weight_and_bias(graph, *linear, weight, std::move(new_bias));
    return replace_and_erase(graph, node, result);
  }
};

}  // namespace

std::unique_ptr<Pass> make_fold_batch_normalization(const PassOptions&) {
  return std::make_unique<FoldBatchNormalization>();
}

}  // namespace onnxfold
