#include "passes/quantize/quantized_result.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "ir/match.h"
#include "passes/quantize/channel_int8.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr const char* kMicrosoft = "com.microsoft";

// DequantizeLinear of constant codes, behind what runtimes fold.
bool is_dequantized_constant(const Value* value) {
  while (value != nullptr && value->producer() != nullptr) {
    const Node& node = *value->producer();
    if (node.is("DequantizeLinear")) return constant(node.input(0)) != nullptr;
    if (!node.is("Cast") && !node.is("Transpose") && !node.is("Identity")) return false;
    value = node.input(0);
  }
  return false;
}

bool is_convolution(const Node& node) { return node.is("Conv") || node.is("ConvTranspose") || node.is("ConvInteger"); }

bool is_quantized(const Node& node) {
  if (node.is("MatMulNBits", kMicrosoft)) return true;
  if (node.is("MatMulInteger") || node.is("ConvInteger")) return constant(node.input(1)) != nullptr;
  if (!node.is("MatMul") && !node.is("Gemm") && !node.is("Conv") && !node.is("ConvTranspose")) return false;
  return is_dequantized_constant(node.input(1));
}

std::size_t constant_input(const Node& node) { return constant(node.input(1)) != nullptr ? 1 : 0; }

std::optional<QuantizedResult> result_of(Node& product) {
  QuantizedResult result{&product, &product, product.output(), is_convolution(product) ? 1 : -1};
  if (product.is("MatMulInteger") || product.is("ConvInteger")) {
    for (const char* op : {"Cast", "Mul"}) {
      Node* next = sole_consumer(result.value);
      if (next == nullptr || !next->is(op)) return {};
      result.last = next;
      result.value = next->output();
    }
  }
  Node* next = sole_consumer(result.value);
  if (next != nullptr && next->is("Add") && constant(next->input(constant_input(*next))) != nullptr) {
    result.last = next;
    result.value = next->output();
  }
  return result;
}

// Dims that broadcast one number a channel; channels-first values have axes behind them.
Dims channel_dims(const QuantizedResult& result, std::size_t channels) {
  Dims dims{static_cast<std::int64_t>(channels)};
  if (result.axis == 1) dims.resize(static_cast<std::size_t>(std::max(1, result.value->rank().value_or(2) - 1)), 1);
  return dims;
}

// Do both broadcast alike? Leading ones may differ.
bool same_behind_ones(const Dims& a, const Dims& b) {
  const auto significant = [](const Dims& dims) {
    return Dims(std::find_if(dims.begin(), dims.end(), [](std::int64_t d) { return d != 1; }), dims.end());
  };
  return significant(a) == significant(b);
}

Result<bool> add_to_constant(Graph& graph, Node& node, std::size_t at, const std::vector<double>& shift) {
  Value* old = node.input(at);
  const Tensor& tensor = *constant(old);
  if (!is_float(tensor.dtype()) || tensor.size() != static_cast<std::int64_t>(shift.size())) return false;
  OF_ASSIGN(std::vector<double> numbers, to_doubles(tensor));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] += shift[i];
  OF_ASSIGN(Tensor made, from_doubles(tensor.dtype(), tensor.dims(), numbers));
  graph.set_input(node, at, add_constant(graph, std::move(made), old->name()));
  erase_if_unused(graph, *old);
  return true;
}

// A bias of int32 behind DequantizeLinear: codes move by whole steps of both scales.
Result<bool> add_to_int32(Graph& graph, Node& node, const std::vector<double>& shift) {
  Node* decode = node.input(2)->producer();
  if (decode == nullptr || !decode->is("DequantizeLinear") || sole_consumer(decode->output()) != &node) return false;
  const Tensor *codes = constant(decode->input(0)), *steps = constant(decode->input(1));
  if (codes == nullptr || steps == nullptr || codes->dtype() != DType::kInt32) return false;
  if (codes->size() != static_cast<std::int64_t>(shift.size())) return false;
  if (steps->size() != codes->size() && steps->size() != 1) return false;
  OF_ASSIGN(const std::vector<double> old, to_doubles(*codes));
  OF_ASSIGN(const std::vector<double> step, to_doubles(*steps));
  std::vector<std::int32_t> moved;
  for (std::size_t i = 0; i < old.size(); ++i) {
    const double unit = step[step.size() == 1 ? 0 : i];
    const double code = old[i] + (unit != 0 ? std::nearbyint(shift[i] / unit) : 0.0);
    moved.push_back(static_cast<std::int32_t>(std::clamp(code, -2147483647.0, 2147483647.0)));
  }
  Value* before = decode->input(0);
  graph.set_input(*decode, 0, add_constant(graph, Tensor::of<std::int32_t>(codes->dims(), moved), before->name()));
  erase_if_unused(graph, *before);
  return true;
}

// Without bias so far, but with activations of 8 bits: integer kernels want a bias of int32 with the product of the
// scales.
Result<bool> put_int32(Graph& graph, Node& node, const std::vector<double>& shift) {
  const Node *x = node.input(0)->producer(), *w = node.input(1)->producer();
  if (x == nullptr || w == nullptr || !x->is("DequantizeLinear") || !w->is("DequantizeLinear")) return false;
  const auto input_scale = scalar_constant(x->input(1));
  const Tensor* weight_scales = constant(w->input(1));
  if (!input_scale || weight_scales == nullptr) return false;
  OF_ASSIGN(std::vector<float> scales, to_floats(*weight_scales));
  if (scales.size() == 1) scales.resize(shift.size(), scales[0]);
  if (scales.size() != shift.size()) return false;
  std::vector<float> steps;
  for (const float scale : scales) steps.push_back(scale * static_cast<float>(*input_scale));
  const std::string name = node.output()->name() + "_bias";
  const auto channels = static_cast<std::int64_t>(shift.size());
  const std::vector<float> bias(shift.begin(), shift.end());
  Value* codes = add_constant(graph, int32_bias(bias, scales, static_cast<float>(*input_scale)), name + "_quantized");
  Value* step = add_constant(graph, Tensor::of<float>({channels}, steps), name + "_quantized_scale");
  NodeSpec spec{"DequantizeLinear", {codes, step}, {{name, Type::tensor(DType::kFloat32, Dims{channels})}}, {}, "", ""};
  spec.attributes.emplace_back("axis", std::int64_t{0});
  graph.set_input(node, 2, graph.insert(std::move(spec), &node)->output());
  return true;
}

Result<bool> add_to_operator(Graph& graph, const QuantizedResult& result, const std::vector<double>& shift) {
  Node& node = *result.product;
  const bool packed = node.is("MatMulNBits", kMicrosoft);
  if (!packed && !node.is("Gemm") && !node.is("Conv") && !node.is("ConvTranspose")) return false;
  const std::size_t slot = packed ? 5 : 2;
  if (node.is("Gemm") && node.attr_float("beta", 1) != 1) return false;
  if (Value* bias = node.input(slot)) {
    if (constant(bias) != nullptr) return add_to_constant(graph, node, slot, shift);
    return packed ? Result<bool>(false) : add_to_int32(graph, node, shift);
  }
  if (!packed) {
    OF_ASSIGN(const bool done, put_int32(graph, node, shift));
    if (done) return true;
  }
  OF_ASSIGN(Tensor made, from_doubles(result.value->dtype(), {static_cast<std::int64_t>(shift.size())}, shift));
  graph.set_input(node, slot, add_constant(graph, std::move(made), node.output()->name() + "_bias"));
  return true;
}

Status add_shift_behind(Graph& graph, const QuantizedResult& result, const std::vector<double>& shift) {
  Value& value = *result.value;
  OF_ASSIGN(Tensor made, from_doubles(value.dtype(), channel_dims(result, shift.size()), shift));
  add_behind(graph, *result.last, *add_constant(graph, std::move(made), value.name() + "_bias"));
  return {};
}

}  // namespace

std::vector<QuantizedResult> find_quantized_results(const Graph& graph) {
  std::vector<QuantizedResult> found;
  for (Node* node : graph.nodes()) {
    if (!is_quantized(*node)) continue;
    if (auto result = result_of(*node)) found.push_back(*result);
  }
  return found;
}

Status shift_channels(Graph& graph, const QuantizedResult& result, const std::vector<double>& shift) {
  if (result.last->is("Add")) {
    const std::size_t at = constant_input(*result.last);
    const Dims& dims = constant(result.last->input(at))->dims();
    if (same_behind_ones(dims, channel_dims(result, shift.size()))) {
      OF_ASSIGN(const bool done, add_to_constant(graph, *result.last, at, shift));
      if (done) return {};
    }
    return add_shift_behind(graph, result, shift);
  }
  if (result.last == result.product) {
    OF_ASSIGN(const bool done, add_to_operator(graph, result, shift));
    if (done) return {};
  }
  return add_shift_behind(graph, result, shift);
}

void add_behind(Graph& graph, Node& last, Value& addend) {
  Value& value = *last.output();
  const std::string name = value.name();
  const std::vector<Node*> nodes = graph.nodes();
  // Behind both of its operands.
  const Node* latest = &last;
  const Node* producer = addend.producer();
  if (producer != nullptr && producer->graph() == &graph && graph.before(last, *producer)) latest = producer;
  const auto next = std::next(std::find(nodes.begin(), nodes.end(), latest));
  Node* add = graph.insert({"Add", {&addend, &addend}, {{name, value.type()}}, {}, "", ""},
                           next == nodes.end() ? nullptr : *next);
  const bool is_public = value.is_graph_output();
  graph.replace_all_uses(value, *add->output());
  graph.set_input(*add, 0, &value);
  if (!is_public) {
    graph.rename(value, name + "_before");
    graph.rename(*add->output(), name);
  }
}

}  // namespace onnxfold
