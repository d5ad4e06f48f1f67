#include "passes/cleanup/linear_weights.h"

#include <algorithm>

#include "ir/match.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool is_float_weight(const Tensor* tensor) {
  if (tensor == nullptr || tensor->size() == 0) return false;
  const DType dtype = tensor->dtype();
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

bool describe_conv(ChannelLinear& linear) {
  const Dims& dims = linear.weight->dims();
  if (dims.size() < 3) return false;
  const std::int64_t group = linear.node->attr_int("group", 1);
  linear.channels = linear.node->is("Conv") ? dims[0] : dims[1] * group;
  linear.rank = static_cast<int>(dims.size());
  return group > 0 && dims[0] % group == 0;
}

bool describe_matrix(ChannelLinear& linear) {
  const Dims& dims = linear.weight->dims();
  if (dims.size() != 2) return false;
  const bool gemm = linear.node->is("Gemm");
  linear.channels = gemm && linear.node->attr_int("transB", 0) != 0 ? dims[0] : dims[1];
  linear.channel_axis = gemm ? 1 : -1;
  linear.rank = gemm ? 2 : linear.node->output()->rank();
  linear.has_bias_slot = gemm;
  return true;
}

// Dims of a constant that broadcasts over the output may differ from 1 only along the channels.
bool along_channels(const Dims& dims, const ChannelLinear& linear) {
  const auto count = static_cast<int>(dims.size());
  if (linear.rank ? count > *linear.rank : count > 1) return false;
  const int rank = linear.rank.value_or(1);
  const int channel = linear.channel_axis < 0 ? rank + linear.channel_axis : linear.channel_axis;
  for (int i = 0; i < count; ++i) {
    const std::int64_t dim = dims[static_cast<std::size_t>(i)];
    const int axis = i + rank - count;
    if (dim != 1 && (axis != channel || dim != linear.channels)) return false;
  }
  return true;
}

// Of weight element `i`.
std::int64_t channel_at(const ChannelLinear& linear, std::int64_t i) {
  const Dims& dims = linear.weight->dims();
  if (linear.node->is("Conv")) return i / (linear.weight->size() / dims[0]);
  if (linear.node->is("ConvTranspose")) {
    const std::int64_t spatial = linear.weight->size() / (dims[0] * dims[1]);
    const std::int64_t group_size = dims[0] / linear.node->attr_int("group", 1);
    const std::int64_t row = i / (dims[1] * spatial), column = i / spatial % dims[1];
    return row / group_size * dims[1] + column;
  }
  const bool rows = linear.node->is("Gemm") && linear.node->attr_int("transB", 0) != 0;
  return rows ? i / dims[1] : i % dims[1];
}

}  // namespace

std::optional<std::vector<double>> per_channel(const Value* value, const ChannelLinear& linear) {
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || tensor->dtype() != linear.weight->dtype() || !along_channels(tensor->dims(), linear)) {
    return std::nullopt;
  }
  auto numbers = to_doubles(*tensor);
  if (!numbers || numbers->empty()) return std::nullopt;
  if (numbers->size() == 1) numbers->resize(static_cast<std::size_t>(linear.channels), numbers->front());
  return std::move(*numbers);
}

std::optional<ChannelLinear> channel_linear(const Value* value, std::string& why) {
  why.clear();
  Node* node = value == nullptr ? nullptr : value->producer();
  const bool conv = node != nullptr && (node->is("Conv") || node->is("ConvTranspose"));
  const bool matrix = node != nullptr && (node->is("Gemm") || node->is("MatMul"));
  if (!conv && !matrix) return std::nullopt;
  ChannelLinear linear;
  linear.node = node;
  linear.weight = constant(node->input(1));
  if (!is_float_weight(linear.weight)) {
    why = "the weight is not a floating constant";
  } else if (sole_consumer(value) == nullptr) {
    why = "the result has another reader";
  } else if (node->input(1)->uses().size() != 1) {
    why = "the weight has another reader";
  } else if (!(conv ? describe_conv(linear) : describe_matrix(linear))) {
    why = "the weight has an unexpected shape";
  } else if (linear.has_bias_slot && node->input(2) != nullptr &&
             !(conv ? constant(node->input(2)) != nullptr : per_channel(node->input(2), linear).has_value())) {
    why = "the bias is not one constant per output channel";
  } else {
    return linear;
  }
  return std::nullopt;
}

Result<Tensor> scaled_weight(const ChannelLinear& linear, const std::vector<double>& scale) {
  OF_ASSIGN(std::vector<double> numbers, to_doubles(*linear.weight));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] *= scale[static_cast<std::size_t>(channel_at(linear, static_cast<std::int64_t>(i)))];
  }
  return from_doubles(linear.weight->dtype(), linear.weight->dims(), numbers);
}

Result<std::vector<double>> bias_of(const ChannelLinear& linear) {
  const Value* input = linear.has_bias_slot ? linear.node->input(2) : nullptr;
  if (input == nullptr) return std::vector<double>(static_cast<std::size_t>(linear.channels), 0.0);
  OF_ASSIGN(std::vector<double> numbers, to_doubles(*input->constant()));
  if (numbers.size() == 1) numbers.resize(static_cast<std::size_t>(linear.channels), numbers.front());
  if (static_cast<std::int64_t>(numbers.size()) != linear.channels) {
    return fail(Code::kCorrupt, "node " + linear.node->label() + ": the bias does not have one element per channel");
  }
  const double beta = linear.node->is("Gemm") ? static_cast<double>(linear.node->attr_float("beta", 1.0F)) : 1.0;
  for (double& number : numbers) number *= beta;
  return numbers;
}

Result<Tensor> bias_tensor(const ChannelLinear& linear, const std::vector<double>& values) {
  return from_doubles(linear.weight->dtype(), {linear.channels}, values);
}

void set_weight_and_bias(Graph& graph, const ChannelLinear& linear, const Tensor& weight,
                         const std::optional<Tensor>& bias) {
  Node& node = *linear.node;
  if (weight.defined()) {
    Value* old = node.input(1);
    graph.set_input(node, 1, add_constant(graph, weight, old->name()));
    erase_if_unused(graph, *old);
  }
  if (!bias) return;
  Value* old = node.input(2);
  const std::string hint = old != nullptr ? old->name() : node.input(1)->name() + "_bias";
  graph.set_input(node, 2, add_constant(graph, *bias, hint));
  if (node.is("Gemm")) node.remove_attribute("beta");
  if (old != nullptr) erase_if_unused(graph, *old);
}

}  // namespace onnxfold
