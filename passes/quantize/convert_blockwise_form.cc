// MatMulNBits(x, B), GatherBlockQuantized(T, i) <=> MatMul(x, DequantizeLinear(W)), Gather(DequantizeLinear(T), i).
//
// to=dequantizelinear: constant weights of 2 (opset 25), 4 or 8 bits without g_idx; zero points must be whole numbers
// of the weight's range. Opset 21 (the model is raised when it is older and something converts).
// to=matmulnbits: blocked DequantizeLinear of a constant [K, N] on axis 0 that one MatMul or plain Gemm multiplies by,
// or of a constant [V, D] on axis 1 that one Gather reads rows of. Blocks: a power of two from 16 to 256.
// Exact: codes, zero points and scales keep their values; only their packing changes.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "formats/onnx/schema.h"
#include "passes/pass.h"
#include "passes/quantize/block_match.h"
#include "passes/quantize/product_kernel.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kStandardOpset = 21;  // first with blocked DequantizeLinear and int4
constexpr const char* kMicrosoft = "com.microsoft";

class ConvertBlockwiseForm final : public Pass {
 public:
  explicit ConvertBlockwiseForm(const PassOptions& options)
      : standard_(options.text("to") == "dequantizelinear"), accuracy_level_(accuracy_level_option(options)) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    OF_ASSIGN(const bool raised, raise_opset(graph, context));
    bool changed = raised;
    for (Node* node : graph.nodes()) {
      if (node->erased()) continue;
      const auto match = look_at(*node);
      if (!match) continue;
      const Tensor* weight = constant(node->input(node->is("MatMulNBits", kMicrosoft) ? 1 : 0));
      if (!match->why.empty()) {
        context.skipped(node->label(), match->why, weight != nullptr ? weight->nbytes() : 0);
        continue;
      }
      const std::string label = match->consumer != nullptr ? match->consumer->label() : node->label();
      const std::int64_t after = standard_ ? to_standard(graph, *node, *match) : to_packed(graph, *node, *match);
      context.applied(label, standard_ ? "DequantizeLinear" : "com.microsoft operator", match->weight.bytes(), after);
      changed = true;
    }
    return changed;
  }

 private:
  struct Parts {
    Value* codes = nullptr;
    Value* scales = nullptr;
    Value* zeros = nullptr;
    std::int64_t bytes = 0;
  };

  std::optional<BlockMatch> look_at(Node& node) const {
    if (!standard_) return node.is("DequantizeLinear") ? std::optional(match_standard(node)) : std::nullopt;
    if (node.is("MatMulNBits", kMicrosoft)) return match_product(node);
    if (node.is("GatherBlockQuantized", kMicrosoft)) return match_table(node);
    return {};
  }

  bool anything_in(const Graph& graph) const {
    for (Node* node : graph.nodes()) {
      const auto match = look_at(*node);
      if (match && match->why.empty()) return true;
      const auto inner = node->subgraphs();
      if (std::any_of(inner.begin(), inner.end(), [&](const Graph* sub) { return anything_in(*sub); })) return true;
    }
    return false;
  }

  Result<bool> raise_opset(Graph& graph, PassContext& context) const;
  Parts add_parts(Graph& graph, const StoredBlocks& weight, std::string_view name);
  Parts parts_of(Graph& graph, const Node& node, std::size_t first, const BlockMatch& match, BlockLayout to);
  std::int64_t to_standard(Graph& graph, Node& node, const BlockMatch& match);
  std::int64_t to_packed(Graph& graph, Node& node, const BlockMatch& match);
  Node* emit_product(Graph& graph, Node& reader, const StoredBlocks& weight, const Parts& parts) const;
  Node* emit_table(Graph& graph, Node& reader, const StoredBlocks& weight, const Parts& parts) const;

  bool standard_;
  std::int64_t accuracy_level_;
  // Weights that several nodes read in the same way are stored once: graph, the three values, layout, rows, cols,
  // block.
  using Key = std::tuple<const Graph*, const Value*, const Value*, const Value*, BlockLayout, std::int64_t,
                         std::int64_t, std::int64_t>;
  std::map<Key, Parts> made_;
};

Result<bool> ConvertBlockwiseForm::raise_opset(Graph& graph, PassContext& context) const {
  if (!standard_ || graph.parent() != nullptr || graph.opset() >= kStandardOpset || !anything_in(graph)) return false;
  auto status = convert_opset(context.model(), kStandardOpset);
  if (!status) {
    return fail(
        Code::kUnsupported,
        fmt::format("to=dequantizelinear needs opset 21, and the model cannot be raised: {}", status.error().message));
  }
  OF_TRY(infer_shapes(context.model()));
  context.note("model", "opset raised to 21 for blocked DequantizeLinear");
  return true;
}

ConvertBlockwiseForm::Parts ConvertBlockwiseForm::add_parts(Graph& graph, const StoredBlocks& weight,
                                                            std::string_view name) {
  const std::string infix = weight.standard() ? "_DQ" : "";
  Parts parts;
  parts.codes = add_constant(graph, weight.codes, fmt::format("{}{}_Q{}", name, infix, weight.bits));
  parts.scales = add_constant(graph, weight.scales, fmt::format("{}{}_scales", name, infix));
  if (weight.zeros.defined()) {
    parts.zeros = add_constant(graph, weight.zeros, fmt::format("{}{}_zero_points", name, infix));
  }
  parts.bytes = weight.bytes();
  return parts;
}

// The name of a weight before it was quantized: converting back and forth must not grow it.
std::string plain_name(std::string name) {
  for (const std::string_view suffix : {"_Q2", "_Q4", "_Q8"}) {
    if (name.size() > suffix.size() && name.ends_with(suffix)) name.resize(name.size() - suffix.size());
  }
  if (name.size() > 3 && name.ends_with("_DQ")) name.resize(name.size() - 3);
  return name;
}

// `node` reads codes at `first`, and scales and zero points where its kind has them.
ConvertBlockwiseForm::Parts ConvertBlockwiseForm::parts_of(Graph& graph, const Node& node, std::size_t first,
                                                           const BlockMatch& match, BlockLayout to) {
  const bool table = node.is("GatherBlockQuantized", kMicrosoft);
  const std::size_t scale = first + (table ? 2 : 1);
  const StoredBlocks& w = match.weight;
  const Key key{&graph, node.input(first), node.input(scale), node.input(scale + 1), to, w.rows, w.cols, w.block};
  if (const auto found = made_.find(key); found != made_.end()) return found->second;
  const StoredBlocks converted = match.as_is ? w : convert_blocks(w, to);
  return made_[key] = add_parts(graph, converted, plain_name(node.input(first)->name()));
}

std::int64_t ConvertBlockwiseForm::to_standard(Graph& graph, Node& node, const BlockMatch& match) {
  const bool table = node.is("GatherBlockQuantized", kMicrosoft);
  const BlockLayout layout = table ? BlockLayout::kStandard : BlockLayout::kStandardAcross;
  const Parts parts = parts_of(graph, node, table ? 0 : 1, match, layout);
  std::vector<Value*> inputs = {parts.codes, parts.scales};
  if (parts.zeros != nullptr) inputs.push_back(parts.zeros);
  const Type type = Type::tensor(match.weight.scales.dtype(), constant(parts.codes)->dims());
  NodeSpec dequantize{
      "DequantizeLinear", std::move(inputs), {{plain_name(parts.codes->name()) + "_DQ", type}}, {}, "", ""};
  const std::int64_t axis = match.as_is ? match.axis : (table ? 1 : 0);
  dequantize.attributes.emplace_back("axis", axis);
  dequantize.attributes.emplace_back("block_size", match.weight.block);
  Value* weight = graph.insert(std::move(dequantize), &node)->output();
  const Value& output = *node.output();
  NodeSpec reader{table ? "Gather" : "MatMul", {}, {{output.name(), output.type()}}, {}, "", node.name};
  reader.inputs = table ? std::vector<Value*>{weight, node.input(1)} : std::vector<Value*>{node.input(0), weight};
  if (table) reader.attributes.emplace_back("axis", node.attr_int("gather_axis", 0));
  Node* made = graph.insert(std::move(reader), &node);
  if (!table && node.input(5) != nullptr) {
    NodeSpec add{"Add", {made->output(), node.input(5)}, {{output.name(), output.type()}}, {}, "", ""};
    made = graph.insert(std::move(add), &node);
  }
  const std::vector<Value*> old = node.inputs();
  replace_and_erase(graph, node, *made->output());
  for (Value* value : old) {
    if (value != nullptr && !value->erased() && constant(value) != nullptr) erase_if_unused(*value->graph(), *value);
  }
  return parts.bytes;
}

Node* ConvertBlockwiseForm::emit_product(Graph& graph, Node& reader, const StoredBlocks& weight,
                                         const Parts& parts) const {
  const Value& output = *reader.output();
  Value* bias = reader.is("Gemm") ? reader.input(2) : nullptr;
  // MatMulNBits takes a bias of exactly N numbers; anything else stays an Add.
  const bool inner_bias = bias != nullptr && bias->static_dims() == Dims{weight.rows};
  NodeSpec spec{"MatMulNBits",
                {reader.input(0), parts.codes, parts.scales, parts.zeros},
                {{output.name(), output.type()}},
                {},
                kMicrosoft,
                reader.name};
  if (inner_bias) spec.inputs.insert(spec.inputs.end(), {nullptr, bias});
  while (spec.inputs.back() == nullptr) spec.inputs.pop_back();
  spec.attributes.emplace_back("K", weight.cols);
  spec.attributes.emplace_back("N", weight.rows);
  spec.attributes.emplace_back("bits", std::int64_t{weight.bits});
  spec.attributes.emplace_back("block_size", weight.block);
  spec.attributes.emplace_back("accuracy_level", accuracy_level_for(reader, weight.bits, accuracy_level_));
  Node* made = graph.insert(std::move(spec), &reader);
  if (bias == nullptr || inner_bias) return made;
  NodeSpec add{"Add", {made->output(), bias}, {{output.name(), output.type()}}, {}, "", ""};
  return graph.insert(std::move(add), &reader);
}

Node* ConvertBlockwiseForm::emit_table(Graph& graph, Node& reader, const StoredBlocks& weight,
                                       const Parts& parts) const {
  const Value& output = *reader.output();
  NodeSpec spec{"GatherBlockQuantized",
                {parts.codes, reader.input(1), parts.scales},
                {{output.name(), output.type()}},
                {},
                kMicrosoft,
                reader.name};
  if (parts.zeros != nullptr) spec.inputs.push_back(parts.zeros);
  spec.attributes.emplace_back("bits", std::int64_t{weight.bits});
  spec.attributes.emplace_back("block_size", weight.block);
  spec.attributes.emplace_back("gather_axis", std::int64_t{0});
  spec.attributes.emplace_back("quantize_axis", std::int64_t{1});
  return graph.insert(std::move(spec), &reader);
}

std::int64_t ConvertBlockwiseForm::to_packed(Graph& graph, Node& node, const BlockMatch& match) {
  Node& reader = *match.consumer;
  const bool table = reader.is("Gather");
  const Parts parts = parts_of(graph, node, 0, match, table ? BlockLayout::kTable : BlockLayout::kPadded);
  Node* made =
      table ? emit_table(graph, reader, match.weight, parts) : emit_product(graph, reader, match.weight, parts);
  const std::vector<Value*> old = node.inputs();
  replace_and_erase(graph, reader, *made->output());  // the DequantizeLinear goes with its only reader
  for (Value* value : old) {
    if (value != nullptr && !value->erased()) erase_if_unused(*value->graph(), *value);
  }
  return parts.bytes;
}

}  // namespace

std::unique_ptr<Pass> make_convert_blockwise_form(const PassOptions& options) {
  return std::make_unique<ConvertBlockwiseForm>(options);
}

}  // namespace onnxfold
