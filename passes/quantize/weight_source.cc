#include "passes/quantize/weight_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>

#include "ir/instantiate.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr const char* kMicrosoft = "com.microsoft";

// Weights that are cut or reshaped before they are read: nothing to quantize until that is done.
std::int64_t moved_weight_bytes(const Node& node, std::int64_t min_elements) {
  static constexpr std::string_view kMoves[] = {"Reshape",   "Slice",   "Split",  "Squeeze",
                                                "Unsqueeze", "Flatten", "Concat", "Expand"};
  if (std::none_of(std::begin(kMoves), std::end(kMoves), [&](std::string_view op) { return node.is(op); })) return 0;
  std::int64_t bytes = 0;
  for (const Value* input : node.inputs()) {
    if (input == nullptr) continue;
    const Tensor* tensor = constant(input);
    if (tensor == nullptr) return 0;
    if (is_float(tensor->dtype()) && tensor->rank() >= 2 && tensor->size() >= min_elements) bytes += tensor->nbytes();
  }
  return bytes;
}

// Bytes of the largest matrix of numbers that a node reads as it is, where no pass of this family knows the operator as
// one with weights: position tables that are added, caches of sines, masks.
std::int64_t unknown_weight_bytes(const Node& node, std::int64_t min_elements) {
  if (node.is("Identity") || node.is("Cast") || node.is("Transpose")) return 0;
  if (node.is("DequantizeLinear") || node.is("QuantizeLinear")) return 0;
  std::int64_t most = 0;
  for (const Value* input : node.inputs()) {
    const Tensor* tensor = constant(input);
    if (tensor == nullptr || tensor->rank() < 2 || tensor->size() < std::max<std::int64_t>(min_elements, 2)) continue;
    if (!is_float(tensor->dtype())) return 0;  // codes: an operator of quantized numbers
    const auto told = [](const Use& use) { return use.node != nullptr && !weight_inputs(*use.node).empty(); };
    if (std::any_of(input->uses().begin(), input->uses().end(), told)) continue;  // with that reader
    most = std::max(most, tensor->nbytes());
  }
  return most;
}

// Does it depend on nothing that changes from run to run (but for defaults of inputs)?
bool fixed(const Value& value, std::set<const Value*>& seen) {
  if (constant(&value) != nullptr || !seen.insert(&value).second) return true;
  if (value.is_graph_input()) return value.initializer() != nullptr;
  const Node* node = value.producer();
  if (node == nullptr || !node->subgraphs().empty()) return false;
  if (node->inputs().empty()) return node->is("Constant");
  return std::all_of(node->inputs().begin(), node->inputs().end(),
                     [&](const Value* input) { return input == nullptr || fixed(*input, seen); });
}

// The value behind Identity, Cast and Transpose.
const Value& origin(const Value& value) {
  const Node* node = value.producer();
  if (node == nullptr || !(node->is("Identity") || node->is("Cast") || node->is("Transpose"))) return value;
  return node->input(0) == nullptr ? value : origin(*node->input(0));
}

std::int64_t known_size(const Value& value) {
  std::int64_t size = 1;
  const auto dims = value.type().static_dims();
  if (!dims) return -1;
  for (const std::int64_t dim : *dims) size *= dim;
  return size;
}

bool has_weights(const Graph& body) {
  const std::vector<Node*> nodes = body.nodes();
  return std::any_of(nodes.begin(), nodes.end(), [](const Node* node) { return !weight_inputs(*node).empty(); });
}

}  // namespace

bool quantizable_type(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16 || dtype == DType::kFloat64;
}

WeightSource weight_source(Value* value) {
  WeightSource source;
  while (value != nullptr) {
    if (constant(value) != nullptr) {
      source.weight = value;
      return source;
    }
    const Node* node = value->producer();
    if (node == nullptr || node->graph() != value->graph()) return {};
    if (node->is("Transpose") && value->rank() == 2 && swaps_axes(*node)) {
      source.transposed = !source.transposed;
    } else if (!node->is("Identity") && !(node->is("Cast") && quantizable_type(value->dtype()))) {
      return {};
    }
    value = node->input(0);
  }
  return {};
}

std::vector<std::size_t> weight_inputs(const Node& node) {
  if (node.is("Gather")) return {0};
  if (node.is("MatMul") || node.is("Gemm") || (node.is("Einsum") && node.inputs().size() == 2)) return {1, 0};
  if (node.is("Conv") || node.is("ConvTranspose")) return {1};
  if (node.is("LSTM") || node.is("GRU") || node.is("RNN")) return {1, 2};
  if (node.is("FusedMatMul", kMicrosoft)) return {1, 0};
  if (node.is("FusedGemm", kMicrosoft) || node.is("Attention", kMicrosoft)) return {1};
  if (node.is("FusedConv", kMicrosoft) || node.is("PackedAttention", kMicrosoft)) return {1};
  if (node.is("EmbedLayerNormalization", kMicrosoft)) return {2, 3, 4};
  if (node.is("MoE", kMicrosoft)) return {2, 4, 6};
  return {};
}

namespace {

// Operators that multiply codes. Their constant matrix of them is the weight.
bool multiplies_codes(const Node& node) {
  static constexpr std::string_view kStandard[] = {"QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger"};
  static constexpr std::string_view kMicrosoftOnes[] = {"DynamicQuantizeLSTM",
                                                        "DynamicQuantizeMatMul",
                                                        "MatMulBnb4",
                                                        "MatMulFpQ4",
                                                        "MatMulInteger16",
                                                        "MatMulIntegerToFloat",
                                                        "QAttention",
                                                        "QEmbedLayerNormalization",
                                                        "QGemm",
                                                        "QLinearConvTranspose",
                                                        "QMoE",
                                                        "QOrderedMatMul"};
  const auto is = [&](std::string_view domain) {
    return [&node, domain](std::string_view op) { return node.is(op, domain); };
  };
  return std::any_of(std::begin(kStandard), std::end(kStandard), is("")) ||
         std::any_of(std::begin(kMicrosoftOnes), std::end(kMicrosoftOnes), is(kMicrosoft));
}

}  // namespace

std::string quantized_already(const Node& node) {
  if (node.is("MatMulNBits", kMicrosoft) || node.is("GatherBlockQuantized", kMicrosoft)) {
    return fmt::format("already quantized to {} bits", node.attr_int("bits", 4));
  }
  for (const Value* input : multiplies_codes(node) ? node.inputs() : std::span<Value* const>()) {
    const Tensor* codes = input == nullptr ? nullptr : constant(input);
    if (codes == nullptr || codes->rank() == 0 || is_float(codes->dtype()) || codes->size() < 2) continue;
    return fmt::format("already quantized to {}", name(codes->dtype()));
  }
  for (const std::size_t input : weight_inputs(node)) {
    const Value* value = node.input(input);
    const Node* producer = value != nullptr ? value->producer() : nullptr;
    if (producer == nullptr || !producer->is("DequantizeLinear") || constant(producer->input(0)) == nullptr) continue;
    return fmt::format("already quantized to {}", name(producer->input(0)->dtype()));
  }
  return {};
}

std::string unread_weight(const Node& node, const Model& model, std::int64_t min_elements) {
  if (const Function* function = find_function(model, node); function != nullptr && has_weights(*function->body)) {
    return "its products stand in a function; recipe clean (inline-functions) puts them into the graph";
  }
  for (const std::size_t input : weight_inputs(node)) {
    const Value* value = node.input(input);
    if (value == nullptr || !is_float(value->dtype())) continue;
    const Value* weight = weight_source(node.input(input)).weight;
    if (weight != nullptr && is_float(constant(weight)->dtype())) continue;
    const std::int64_t size = known_size(*value);
    std::set<const Value*> seen;
    if ((size >= 0 && size < std::max<std::int64_t>(min_elements, 2)) || !fixed(*value, seen)) continue;
    const Value& from = origin(*value);
    if (const Tensor* numbers = constant(&from)) {
      return fmt::format("weight is stored as {}; recipe clean makes floats of it", name(numbers->dtype()));
    }
    if (from.is_graph_input()) return fmt::format("weight '{}' is an input that callers may replace", from.name());
    const Node& maker = *from.producer();
    if (maker.is("Constant")) return "weight is stored as a sparse tensor";
    if (maker.is("DequantizeLinear")) return "weight is rounded in the model, by QuantizeLinear and DequantizeLinear";
    return fmt::format("weight is computed of constants, by {}; recipe clean does that once and for all",
                       maker.op_type());
  }
  return {};
}

std::optional<HeldWeight> held_weight(const Node& node, std::int64_t min_elements) {
  if (const std::int64_t bytes = moved_weight_bytes(node, min_elements); bytes > 0) return HeldWeight{bytes, true};
  if (!weight_inputs(node).empty()) return {};
  const std::int64_t bytes = unknown_weight_bytes(node, min_elements);
  return bytes > 0 ? std::optional(HeldWeight{bytes, false}) : std::nullopt;
}

}  // namespace onnxfold
