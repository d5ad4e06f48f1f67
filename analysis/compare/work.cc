#include "analysis/compare/work.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string_view>

namespace onnxfold {
namespace {

const Tensor* held(const Value* value) {
  if (value == nullptr) return nullptr;
  return value->initializer() != nullptr ? value->initializer() : value->constant();
}

// Operators whose constants are low-bit weights: which input holds codes.
struct LowBit {
  std::string_view op_type;
  std::size_t codes;
};
constexpr std::array kLowBit = {LowBit{"MatMulNBits", 1},      LowBit{"GatherBlockQuantized", 0},
                                LowBit{"DequantizeLinear", 0}, LowBit{"MatMulInteger", 1},
                                LowBit{"ConvInteger", 1},      LowBit{"QLinearMatMul", 3},
                                LowBit{"QLinearConv", 3},      LowBit{"DynamicQuantizeMatMul", 1}};

const LowBit* low_bit(const Node& node) {
  const auto* found =
      std::find_if(kLowBit.begin(), kLowBit.end(), [&](const LowBit& each) { return node.op_type() == each.op_type; });
  return found == kLowBit.end() ? nullptr : found;
}

std::int64_t code_count(const Node& node, const Tensor& codes) {
  if (node.is("MatMulNBits", "com.microsoft")) return node.attr_int("K", 0) * node.attr_int("N", 0);
  if (node.is("GatherBlockQuantized", "com.microsoft") && codes.dtype() == DType::kUint8) {
    return codes.size() * 8 / std::max<std::int64_t>(1, node.attr_int("bits", 4));
  }
  return codes.size();
}

using Shapes = std::map<const Value*, Dims>;

const Dims* dims_of(const Shapes& shapes, const Value* value) {
  const auto found = shapes.find(value);
  return found == shapes.end() ? nullptr : &found->second;
}

std::int64_t last(const Dims& dims) { return dims.empty() ? 1 : dims.back(); }

// Products of queries and keys and of probabilities and values, each batch x heads x queries x keys x width.
std::optional<std::int64_t> attention_macs(const Node& node, const Shapes& shapes) {
  const Dims* query = dims_of(shapes, node.input(0));
  const Dims* result = dims_of(shapes, node.output());
  if (query == nullptr || result == nullptr || result->size() < 3) return {};
  if (node.is("Attention", "com.microsoft")) {  // projects as well
    const Dims* weight = dims_of(shapes, node.input(1));
    if (weight == nullptr || weight->size() != 2 || query->size() != 3) return {};
    const std::int64_t rows = (*query)[0] * (*query)[1];
    return rows * (*weight)[0] * (*weight)[1] + rows * (*query)[1] * 2 * last(*result);
  }
  // Keys by the sequence axis of the present keys, else of the keys that go in.
  const Dims* keys = dims_of(shapes, node.output(1));
  if (keys == nullptr) keys = dims_of(shapes, node.input(1));
  if (keys == nullptr && node.input(1) == nullptr) keys = query;  // packed with the queries
  if (keys == nullptr || keys->size() < 3) return {};
  const std::int64_t length = keys->size() == 4 ? (*keys)[2] : (*keys)[1];
  return element_count(*result) * length * 2;
}

// None: not known. 0: no work to speak of.
std::optional<std::int64_t> macs_of(const Node& node, const Shapes& shapes) {
  const std::string& op = node.op_type();
  const Dims* out = dims_of(shapes, node.output());
  const auto times_out = [&](const Dims* operand, std::int64_t depth) -> std::optional<std::int64_t> {
    if (out == nullptr || operand == nullptr) return {};
    return element_count(*out) * depth;
  };
  const Dims* first = dims_of(shapes, node.input(0));
  const Dims* second = dims_of(shapes, node.input(1));
  if (op == "MatMul" || op == "FusedMatMul" || op == "MatMulInteger" || op == "QLinearMatMul" ||
      op == "DynamicQuantizeMatMul" || op == "MatMulIntegerToFloat") {
    const bool flipped = node.attr_int("transA", 0) != 0 && first != nullptr && first->size() > 1;
    return times_out(first, first == nullptr ? 0 : flipped ? (*first)[first->size() - 2] : last(*first));
  }
  if (op == "Gemm" || op == "FusedGemm") {
    return times_out(first, first == nullptr ? 0 : node.attr_int("transA", 0) != 0 ? (*first)[0] : last(*first));
  }
  if (op == "MatMulNBits") return times_out(first, node.attr_int("K", 0));
  const bool quantized_conv = op == "QLinearConv";
  if (op == "Conv" || op == "FusedConv" || op == "ConvInteger" || quantized_conv) {
    const Dims* weight = quantized_conv ? dims_of(shapes, node.input(3)) : second;
    return times_out(weight, weight == nullptr || (*weight)[0] == 0 ? 0 : element_count(*weight) / (*weight)[0]);
  }
  if (op == "ConvTranspose") {
    if (first == nullptr || second == nullptr || second->empty() || (*second)[0] == 0) return {};
    return element_count(*first) * (element_count(*second) / (*second)[0]);
  }
  if (op == "Attention" || op == "MultiHeadAttention" || op == "GroupQueryAttention") {
    return attention_macs(node, shapes);
  }
  return 0;
}

bool has_products(const Graph& graph);

// Work that the shapes of the main graph's values do not tell.
bool hides_work(const Node& node) {
  constexpr std::array<std::string_view, 7> kOpaque = {"LSTM", "GRU", "RNN", "Einsum", "DeformConv", "MoE", "QMoE"};
  if (std::find(kOpaque.begin(), kOpaque.end(), node.op_type()) != kOpaque.end()) return true;
  const std::vector<Graph*> inner = node.subgraphs();
  if (std::any_of(inner.begin(), inner.end(), [](const Graph* graph) { return has_products(*graph); })) return true;
  const Model* model = node.graph()->model();
  if (model == nullptr) return false;
  return std::any_of(model->functions.begin(), model->functions.end(), [&](const auto& function) {
    return function->name == node.op_type() && function->domain == node.domain() && has_products(*function->body);
  });
}

bool has_products(const Graph& graph) {
  const std::vector<Node*> nodes = graph.nodes();
  return std::any_of(nodes.begin(), nodes.end(), [](const Node* node) {
    for (const char* word : {"MatMul", "Conv", "Gemm", "Attention"}) {
      if (node->op_type().find(word) != std::string::npos) return true;
    }
    return hides_work(*node);
  });
}

}  // namespace

namespace {

// Scales may be stored in 8 bits behind DequantizeLinear themselves.
void add_scales(const Value* value, std::set<const void*>& scales, int depth = 0) {
  if (value == nullptr || depth > 4) return;
  if (const Tensor* tensor = held(value)) {
    scales.insert(tensor->identity());
  } else if (value->producer() != nullptr) {
    for (const Value* input : value->producer()->inputs()) add_scales(input, scales, depth + 1);
  }
}

}  // namespace

std::int64_t count_parameters(Model& model) {
  std::set<const void*> scales;
  std::map<const void*, std::int64_t> codes;
  for (const Graph* graph : model.graphs()) {
    for (const Node* node : graph->nodes()) {
      const LowBit* low = low_bit(*node);
      const Tensor* weight = low == nullptr ? nullptr : held(node->input(low->codes));
      if (weight == nullptr || is_float(weight->dtype())) continue;
      codes[weight->identity()] = code_count(*node, *weight);
      for (std::size_t i = low->codes + 1; i < node->inputs().size(); ++i) {
        const bool bias = node->is("MatMulNBits", "com.microsoft") ? i == 5 : node->is("QLinearConv") && i == 8;
        if (!bias) add_scales(node->input(i), scales);
      }
    }
  }
  std::int64_t count = 0;
  std::set<const void*> seen;
  for (const Graph* graph : model.graphs()) {
    for (const Value* value : graph->values()) {
      const Tensor* tensor = held(value);
      if (tensor == nullptr || !seen.insert(tensor->identity()).second) continue;
      if (scales.count(tensor->identity()) != 0) continue;
      const auto code = codes.find(tensor->identity());
      if (code != codes.end()) {
        count += code->second;
      } else if (is_float(tensor->dtype())) {
        count += tensor->size();
      }
    }
  }
  return count;
}

Result<std::optional<std::int64_t>> count_macs(const Model& model, const Feeds& feeds) {
  using Count = std::optional<std::int64_t>;
  ExecutorOptions options;
  std::set<std::string> taps;
  std::vector<const Node*> products;
  for (const Node* node : model.graph().nodes()) {
    if (hides_work(*node)) return Count();
    if (macs_of(*node, {}) == Count(0)) continue;
    products.push_back(node);
    for (const Value* input : node->inputs()) {
      if (input != nullptr && input->graph() == &model.graph()) taps.insert(input->name());
    }
    for (const Value* output : node->outputs()) {
      if (output != nullptr) taps.insert(output->name());
    }
  }
  options.taps.assign(taps.begin(), taps.end());
  OF_ASSIGN(const auto executor, Executor::create(model, options));
  Shapes shapes;
  const Executor::TapSink sink = [&](const Value& value, const Datum& datum) -> Status {
    if (datum.is_array()) shapes[&value] = datum.array.dims();
    return {};
  };
  const auto ran = executor->run(feeds, sink);
  if (!ran) return fail(ran.error());
  std::int64_t total = 0;
  for (const Node* node : products) {
    const Count macs = macs_of(*node, shapes);
    if (!macs) return Count();
    total += *macs;
  }
  return Count(total);
}

}  // namespace onnxfold
