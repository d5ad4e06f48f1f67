#include "passes/reparam/conv/conv_node.h"

#include <algorithm>
#include <cmath>

#include "ir/match.h"
#include "ir/numeric.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

bool is_weight(const Tensor* tensor) {
  if (tensor == nullptr || tensor->size() == 0) return false;
  const DType dtype = tensor->dtype();
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

// Pads that auto_pad stands for along one axis; nullopt when they depend on a length that is not known.
std::optional<ConvAxis> automatic_pads(ConvAxis axis, const std::string& mode, std::optional<std::int64_t> length) {
  axis.begin = axis.end = 0;
  if (mode == "VALID") return axis;
  std::int64_t total = axis.high() - axis.low();
  if (axis.stride != 1) {
    if (!length) return std::nullopt;
    const std::int64_t outputs = (*length + axis.stride - 1) / axis.stride;
    total = std::max<std::int64_t>(0, (outputs - 1) * axis.stride + total + 1 - *length);
  }
  const std::int64_t more = total - total / 2;
  axis.begin = mode == "SAME_LOWER" ? more : total / 2;
  axis.end = total - axis.begin;
  return axis;
}

// Attribute lists of a convolution or pool. Nullopt when malformed or when the sizes of the output are stated instead.
std::optional<ConvGeometry> geometry_of(const Node& node, const std::vector<std::int64_t>& kernel, std::string& why) {
  const std::size_t rank = kernel.size();
  const auto list = [&](std::string_view name, std::size_t count, std::int64_t fallback) {
    return node.attr_ints(name).value_or(std::vector<std::int64_t>(count, fallback));
  };
  const std::vector<std::int64_t> strides = list("strides", rank, 1), dilations = list("dilations", rank, 1);
  const std::vector<std::int64_t> pads = list("pads", 2 * rank, 0), extra = list("output_padding", rank, 0);
  ConvGeometry result{node.is("ConvTranspose"), {}};
  why = "its kernel, strides, dilations and pads do not fit together";
  if (strides.size() != rank || dilations.size() != rank || pads.size() != 2 * rank || extra.size() != rank)
    return std::nullopt;
  const std::string mode = node.attr_string("auto_pad", "NOTSET");
  const Lengths lengths = spatial_lengths(*node.input(0));
  for (std::size_t i = 0; i < rank; ++i) {
    ConvAxis axis{kernel[i], dilations[i], strides[i], pads[i], pads[rank + i], result.transposed ? extra[i] : 0};
    if (axis.size < 1 || axis.dilation < 1 || axis.stride < 1 || axis.begin < 0 || axis.end < 0) return std::nullopt;
    if (axis.output_padding < 0) return std::nullopt;
    if (mode != "NOTSET" && !mode.empty()) {
      why = "its pads depend on the size of the image";
      if (result.transposed) return std::nullopt;
      const auto padded = automatic_pads(axis, mode, i < lengths.size() ? lengths[i] : std::nullopt);
      if (!padded) return std::nullopt;
      axis = *padded;
    }
    result.axes.push_back(axis);
  }
  why.clear();
  return result;
}

bool has_bias_or_none(const Node& node, std::int64_t channels) {
  const Value* bias = node.input(2);
  if (bias == nullptr) return true;
  const Tensor* tensor = constant(bias);
  return is_weight(tensor) && tensor->dims() == Dims{channels};
}

std::optional<ConvShape> shape_of_conv(const Node& node, std::string& why) {
  const Tensor* weight = constant(node.input(1));
  why = "the weight is not a floating constant";
  if (!is_weight(weight) || weight->dims().size() < 3) return std::nullopt;
  const Dims& dims = weight->dims();
  const std::vector<std::int64_t> kernel(dims.begin() + 2, dims.end());
  ConvShape shape;
  shape.groups = node.attr_int("group", 1);
  if (shape.groups < 1 || dims[0] % shape.groups != 0 || node.attr_ints("kernel_shape").value_or(kernel) != kernel) {
    why = "groups or kernel do not fit the weight";
    return std::nullopt;
  }
  const bool transposed = node.is("ConvTranspose");
  shape.in = transposed ? dims[0] : dims[1] * shape.groups;
  shape.out = transposed ? dims[1] * shape.groups : dims[0];
  if (!has_bias_or_none(node, shape.out)) {
    why = "the bias is not one constant per output channel";
    return std::nullopt;
  }
  if (node.attribute("output_shape") != nullptr) {
    why = "the size of its output is stated";
    return std::nullopt;
  }
  const auto geometry = geometry_of(node, kernel, why);
  if (!geometry) return std::nullopt;
  shape.geometry = *geometry;
  return shape;
}

// One number for all columns or one for each.
bool per_column(const Dims& dims, std::int64_t columns) {
  if (dims.size() > 2 || (dims.size() == 2 && dims[0] != 1)) return false;
  return dims.empty() || dims.back() == 1 || dims.back() == columns;
}

std::optional<ConvShape> shape_of_gemm(const Node& node, std::string& why) {
  const Tensor* weight = constant(node.input(1));
  why = "the weight is not a floating constant";
  if (!is_weight(weight) || weight->dims().size() != 2) return std::nullopt;
  why = "the left factor is transposed";
  if (node.attr_int("transA", 0) != 0) return std::nullopt;
  const bool rows = node.attr_int("transB", 0) != 0;
  ConvShape shape;
  shape.out = weight->dims()[rows ? 0 : 1];
  shape.in = weight->dims()[rows ? 1 : 0];
  why = "the bias is not one constant per output channel";
  const Value* bias = node.input(2);
  if (bias != nullptr && (!is_weight(constant(bias)) || !per_column(bias->constant()->dims(), shape.out))) {
    return std::nullopt;
  }
  why.clear();
  return shape;
}

std::optional<ConvShape> shape_of_pool(const Node& node, std::string& why) {
  const auto kernel = node.attr_ints("kernel_shape");
  const Type& type = node.input(0)->type();
  why = "the number of channels is not known";
  if (!kernel || !type.shape || type.shape->size() != kernel->size() + 2 || !(*type.shape)[1].known())
    return std::nullopt;
  why = "it rounds sizes up";
  if (node.attr_int("ceil_mode", 0) != 0) return std::nullopt;
  const auto geometry = geometry_of(node, *kernel, why);
  if (!geometry) return std::nullopt;
  const std::int64_t channels = *(*type.shape)[1].value;
  ConvShape shape{*geometry, channels, channels, channels};
  why = "it does not count its pads";
  if (reads_padding(shape.geometry) && node.attr_int("count_include_pad", 0) == 0) return std::nullopt;
  why.clear();
  if (channels < 1) return std::nullopt;
  return shape;
}

// Weight of ConvTranspose, [in, out / groups, taps], as [out, in / groups, taps].
std::vector<double> by_outputs(const ConvShape& shape, const std::vector<double>& given) {
  std::vector<double> result(given.size());
  const std::int64_t taps = shape.geometry.taps();
  const std::int64_t ins = shape.in / shape.groups, outs = shape.out / shape.groups;
  for (std::int64_t o = 0; o < shape.out; ++o) {
    for (std::int64_t i = 0; i < ins; ++i) {
      const auto from = given.begin() + ((o / outs * ins + i) * outs + o % outs) * taps;
      std::copy_n(from, taps, result.begin() + (o * ins + i) * taps);
    }
  }
  return result;
}

std::vector<double> by_inputs(const ConvShape& shape, const std::vector<double>& given) {
  std::vector<double> result(given.size());
  const std::int64_t taps = shape.geometry.taps();
  const std::int64_t ins = shape.in / shape.groups, outs = shape.out / shape.groups;
  for (std::int64_t o = 0; o < shape.out; ++o) {
    for (std::int64_t i = 0; i < ins; ++i) {
      std::copy_n(given.begin() + (o * ins + i) * taps, taps,
                  result.begin() + ((o / outs * ins + i) * outs + o % outs) * taps);
    }
  }
  return result;
}

std::vector<double> transposed(const std::vector<double>& given, std::int64_t rows, std::int64_t columns) {
  std::vector<double> result(given.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) result[at(c * rows + r)] = given[at(r * columns + c)];
  }
  return result;
}

Result<std::vector<double>> bias_of(const Node& node, std::int64_t channels) {
  if (node.input(2) == nullptr) return std::vector<double>(at(channels), 0.0);
  OF_ASSIGN(std::vector<double> bias, to_doubles(*node.input(2)->constant()));
  if (bias.size() == 1) bias.resize(at(channels), bias.front());
  return bias;
}

std::vector<std::int64_t> list_of(const ConvGeometry& geometry, std::int64_t ConvAxis::*member) {
  std::vector<std::int64_t> list;
  for (const ConvAxis& axis : geometry.axes) list.push_back(axis.*member);
  return list;
}

std::vector<Attribute> attributes_of(const ConvShape& shape) {
  std::vector<Attribute> attributes;
  const auto add = [&](const char* name, std::vector<std::int64_t> list, std::int64_t fallback) {
    const bool plain = std::all_of(list.begin(), list.end(), [&](std::int64_t x) { return x == fallback; });
    if (!plain) attributes.emplace_back(name, std::move(list));
  };
  attributes.emplace_back("kernel_shape", list_of(shape.geometry, &ConvAxis::size));
  add("dilations", list_of(shape.geometry, &ConvAxis::dilation), 1);
  add("strides", list_of(shape.geometry, &ConvAxis::stride), 1);
  std::vector<std::int64_t> pads = list_of(shape.geometry, &ConvAxis::begin);
  const std::vector<std::int64_t> ends = list_of(shape.geometry, &ConvAxis::end);
  pads.insert(pads.end(), ends.begin(), ends.end());
  add("pads", std::move(pads), 0);
  add("output_padding", list_of(shape.geometry, &ConvAxis::output_padding), 0);
  if (shape.groups != 1) attributes.emplace_back("group", shape.groups);
  return attributes;
}

}  // namespace

bool is_conv_like(const Node& node) {
  return node.is("Conv") || node.is("ConvTranspose") || node.is("Gemm") || node.is("AveragePool");
}

std::optional<ConvShape> conv_shape(const Node& node, std::string& why) {
  why.clear();
  if (!is_conv_like(node) || node.input(0) == nullptr) return std::nullopt;
  if (node.is("Gemm")) return node.opset() < 7 ? std::nullopt : shape_of_gemm(node, why);
  return node.is("AveragePool") ? shape_of_pool(node, why) : shape_of_conv(node, why);
}

Result<ConvKernel> conv_kernel(const Node& node, const ConvShape& shape) {
  ConvKernel kernel = zero_kernel(shape);
  if (node.is("AveragePool")) {
    std::fill(kernel.weight.begin(), kernel.weight.end(), 1.0 / static_cast<double>(shape.geometry.taps()));
    return kernel;
  }
  OF_ASSIGN(kernel.weight, to_doubles(*node.input(1)->constant()));
  OF_ASSIGN(kernel.bias, bias_of(node, shape.out));
  if (node.is("ConvTranspose")) kernel.weight = by_outputs(shape, kernel.weight);
  if (node.is("Gemm")) {
    if (node.attr_int("transB", 0) == 0) kernel.weight = transposed(kernel.weight, shape.in, shape.out);
    const auto alpha = static_cast<double>(node.attr_float("alpha", 1.0F));
    const auto beta = static_cast<double>(node.attr_float("beta", 1.0F));
    for (double& number : kernel.weight) number *= alpha;
    for (double& number : kernel.bias) number *= beta;
  }
  return kernel;
}

Lengths spatial_lengths(const Value& value) {
  Lengths lengths;
  if (!value.type().is_tensor() || !value.type().shape) return lengths;
  const std::vector<Dim>& dims = *value.type().shape;
  for (std::size_t i = 2; i < dims.size(); ++i) {
    lengths.push_back(dims[i].known() ? dims[i].value : std::nullopt);
  }
  return lengths;
}

bool fits(const ConvKernel& kernel, DType dtype) {
  const auto finite = [dtype](double number) { return std::isfinite(round_to(dtype, number)); };
  return std::all_of(kernel.weight.begin(), kernel.weight.end(), finite) &&
         std::all_of(kernel.bias.begin(), kernel.bias.end(), finite);
}

Result<Node*> insert_conv(Graph& graph, const ConvKernel& kernel, Value& input, OutputSpec output,
                          const std::string& hint, const Node* before) {
  const ConvShape& shape = kernel.shape;
  const bool gemm = shape.geometry.axes.empty(), transposed_conv = shape.geometry.transposed;
  Dims dims = transposed_conv ? Dims{shape.in, shape.out / shape.groups} : Dims{shape.out, shape.in / shape.groups};
  for (const ConvAxis& axis : shape.geometry.axes) dims.push_back(axis.size);
  const std::vector<double> weight = transposed_conv ? by_inputs(shape, kernel.weight) : kernel.weight;
  OF_ASSIGN(Tensor weights, from_doubles(input.dtype(), std::move(dims), weight));
  const bool biased = std::any_of(kernel.bias.begin(), kernel.bias.end(), [](double number) { return number != 0; });
  Tensor bias;
  if (biased) {
    OF_ASSIGN(bias, from_doubles(input.dtype(), {shape.out}, kernel.bias));
  }
  std::vector<Value*> inputs{&input, add_constant(graph, std::move(weights), hint + "_weight")};
  if (biased) inputs.push_back(add_constant(graph, std::move(bias), hint + "_bias"));
  std::vector<Attribute> attributes;
  if (gemm) {
    attributes.emplace_back("transB", std::int64_t{1});
  } else {
    attributes = attributes_of(shape);
  }
  NodeSpec spec{.op_type = gemm              ? "Gemm"
                           : transposed_conv ? "ConvTranspose"
                                             : "Conv",
                .inputs = std::move(inputs),
                .outputs = {std::move(output)},
                .attributes = std::move(attributes),
                .domain = "",
                .name = hint};
  return graph.insert(std::move(spec), before);
}

}  // namespace onnxfold
