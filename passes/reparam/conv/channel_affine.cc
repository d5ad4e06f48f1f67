#include "passes/reparam/conv/channel_affine.h"

#include <algorithm>
#include <cmath>

#include "ir/match.h"

namespace onnxfold {
namespace {

using Numbers = std::vector<double>;

bool is_inference(const Node& node) {
  for (std::size_t i = 1; i < node.outputs().size(); ++i) {
    if (node.output(i) != nullptr && !node.output(i)->uses().empty()) return false;
  }
  if (node.opset() < 7) return node.attr_int("is_test", 0) == 1;
  return node.attr_int("training_mode", 0) == 0 && node.attr_int("spatial", 1) == 1;
}

std::optional<ChannelAffine> of_normalization(const Node& node, std::size_t channels) {
  if (!is_inference(node)) return std::nullopt;
  std::vector<Numbers> parameters;
  for (std::size_t i = 1; i <= 4; ++i) {
    const Tensor* tensor = constant(node.input(i));
    if (tensor == nullptr || !is_float(tensor->dtype()) || tensor->dims() != Dims{static_cast<std::int64_t>(channels)})
      return std::nullopt;
    auto numbers = to_doubles(*tensor);
    if (!numbers) return std::nullopt;
    parameters.push_back(std::move(*numbers));
  }
  const auto epsilon = static_cast<double>(node.attr_float("epsilon", 1e-5F));
  ChannelAffine result{node.input(0), Numbers(channels), Numbers(channels)};
  for (std::size_t c = 0; c < channels; ++c) {
    result.scale[c] = parameters[0][c] / std::sqrt(parameters[3][c] + epsilon);
    result.shift[c] = parameters[1][c] - parameters[2][c] * result.scale[c];
  }
  return result;
}

// A constant that varies along axis 1 of a value of `rank` only, with one number per channel.
std::optional<Numbers> per_channel(const Value* value, DType dtype, int rank, std::size_t channels) {
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || tensor->dtype() != dtype || !is_float(dtype) || tensor->rank() > rank) return std::nullopt;
  for (int i = 0; i < tensor->rank(); ++i) {
    const std::int64_t dim = tensor->dims()[static_cast<std::size_t>(i)];
    const bool channel_axis = i + rank - tensor->rank() == 1;
    if (dim != 1 && !(channel_axis && dim == static_cast<std::int64_t>(channels))) return std::nullopt;
  }
  auto numbers = to_doubles(*tensor);
  if (!numbers || numbers->empty()) return std::nullopt;
  if (numbers->size() == 1) numbers->resize(channels, numbers->front());
  return std::move(*numbers);
}

std::optional<ChannelAffine> of_arithmetic(const Node& node, std::size_t channels) {
  const bool commutes = node.is("Add") || node.is("Mul");
  if ((!commutes && !node.is("Sub") && !node.is("Div")) || node.opset() < 7) return std::nullopt;
  const std::size_t operand = constant(node.input(0)) != nullptr ? 1 : 0;
  Value* input = node.input(operand);
  if (input == nullptr || (operand == 1 && node.is("Div"))) return std::nullopt;
  const auto numbers =
      per_channel(node.input(1 - operand), input->dtype(), node.output()->rank().value_or(0), channels);
  if (!numbers) return std::nullopt;
  ChannelAffine result{input, Numbers(channels, 1.0), Numbers(channels, 0.0)};
  for (std::size_t c = 0; c < channels; ++c) {
    const double number = (*numbers)[c];
    if (node.is("Add")) result.shift[c] = number;
    if (node.is("Mul")) result.scale[c] = number;
    if (node.is("Div")) result.scale[c] = 1.0 / number;
    if (node.is("Sub")) result.shift[c] = operand == 0 ? -number : number;
    if (node.is("Sub") && operand == 1) result.scale[c] = -1.0;
  }
  return result;
}

bool finite(const Numbers& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](double number) { return std::isfinite(number); });
}

}  // namespace

std::optional<std::int64_t> channels_of(const Value& value) {
  const Type& type = value.type();
  if (!type.is_tensor() || !type.shape || type.shape->size() < 2 || !(*type.shape)[1].known()) return std::nullopt;
  if (*(*type.shape)[1].value < 1) return std::nullopt;
  return (*type.shape)[1].value;
}

std::optional<ChannelAffine> channel_affine(const Node& node) {
  if (node.input(0) == nullptr || node.output() == nullptr || !node.domain().empty()) return std::nullopt;
  const auto channels = channels_of(*node.output());
  if (!channels) return std::nullopt;
  const auto count = static_cast<std::size_t>(*channels);
  std::optional<ChannelAffine> result;
  if (node.is("BatchNormalization")) {
    result = of_normalization(node, count);
  } else if (node.is("Neg")) {
    result = ChannelAffine{node.input(0), Numbers(count, -1.0), Numbers(count, 0.0)};
  } else {
    result = of_arithmetic(node, count);
  }
  if (!result || !finite(result->scale) || !finite(result->shift)) return std::nullopt;
  const bool same = channels_of(*result->input) == channels && result->input->rank() == node.output()->rank();
  return same ? result : std::nullopt;
}

void compose(ChannelAffine& inner, const ChannelAffine& outer) {
  for (std::size_t c = 0; c < inner.scale.size(); ++c) {
    inner.scale[c] *= outer.scale[c];
    inner.shift[c] = inner.shift[c] * outer.scale[c] + outer.shift[c];
  }
}

}  // namespace onnxfold
