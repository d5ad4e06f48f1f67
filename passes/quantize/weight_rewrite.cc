#include "passes/quantize/weight_rewrite.h"

#include <fmt/format.h>

#include <set>

#include "formats/onnx/schema.h"
#include "ir/match.h"
#include "passes/quantize/packing.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kStandardOpset = 21;  // first with blocked DequantizeLinear and int4

DType standard_type(int bits, bool is_signed) {
  if (bits == 8) return is_signed ? DType::kInt8 : DType::kUint8;
  return is_signed ? DType::kInt4 : DType::kUint4;
}

// Makes one part when the writer asks for it; errors name the weight, since the writer that meets them does not know
// it.
template <typename Pack>
DeferredFn part_of(std::shared_ptr<LazyBlocks> lazy, const std::string& name, int number, Pack pack) {
  return [lazy = std::move(lazy), name, number, pack]() -> Result<Buffer> {
    auto codes = lazy->take(number);
    if (!codes) return fail(codes.error().in(fmt::format("weight '{}'", name)));
    return pack(**codes);
  };
}

NodeSpec in_place_of(const Node& node, std::string op, std::vector<Value*> inputs, std::string domain) {
  const Value& output = *node.output();
  return {std::move(op), std::move(inputs), {{output.name(), output.type()}}, {}, std::move(domain), node.name};
}

// A weight that something else still reads as floats is stored twice: worth knowing.
void note_float_readers(const WeightTarget& target, PassContext& context) {
  const Value& weight = *target.weight;
  if (weight.uses().empty()) return;
  const Node* reader = weight.uses().front().node;
  context.note(weight.name(), fmt::format("is also read in floating point by {}; both copies stay in the file",
                                          reader == nullptr ? "an output of the model" : reader->label()));
}

void erase_weight(Value& weight) {
  if (weight.is_graph_input()) return;
  Node* producer = weight.producer();
  if (producer != nullptr) {
    producer->graph()->erase(*producer);
  } else {
    weight.graph()->erase(weight);
  }
}

}  // namespace

Result<bool> WeightRewriter::raise_opset(Graph& graph, PassContext& context) const {
  if (!options_.standard || graph.parent() != nullptr || graph.opset() >= kStandardOpset) return false;
  Model& model = context.model();
  PassContext unheard(model, "");
  bool any = false;
  for (const Graph* each : model.graphs()) any = any || !find_weight_targets(*each, options_, unheard).empty();
  if (!any) return false;
  if (auto status = convert_opset(model, kStandardOpset); !status) {
    return fail(Code::kUnsupported, fmt::format("form=dequantizelinear needs opset 21, and the model cannot be raised: "
                                                "{}; use form=matmulnbits",
                                                status.error().message));
  }
  OF_TRY(infer_shapes(model));
  context.note("model", "opset raised to 21 for blocked DequantizeLinear");
  return true;
}

Result<bool> WeightRewriter::run(Graph& graph, PassContext& context, const BlocksFactory& make) {
  if ((options_.format.block & (options_.format.block - 1)) != 0) {
    return fail(Code::kInvalidArgument, fmt::format("block={} is no power of two", options_.format.block));
  }
  OF_ASSIGN(const bool raised, raise_opset(graph, context));
  const std::vector<WeightTarget> targets = find_weight_targets(graph, options_, context);
  for (const WeightTarget& target : targets) rewrite(graph, target, make, context);
  std::set<const Value*> seen;
  for (const WeightTarget& target : targets) {
    if (!seen.insert(target.weight).second || target.weight->erased()) continue;
    if (target.weight->uses().empty()) {
      erase_weight(*target.weight);
    } else {
      note_float_readers(target, context);
    }
  }
  return raised || !targets.empty();
}

const WeightRewriter::Parts& WeightRewriter::parts_of(const WeightTarget& target, const BlocksFactory& make) {
  const auto key =
      std::make_tuple(static_cast<const Value*>(target.weight), target.shape.transposed, target.table, target.type);
  if (const auto found = made_.find(key); found != made_.end()) return found->second;
  Graph& graph = *target.weight->graph();
  const std::string name = target.weight->name();
  const int bits = options_.format.bits;
  const bool has_zeros = !options_.format.symmetric;
  const std::shared_ptr<LazyBlocks> lazy = make(target, has_zeros ? 3 : 2);
  const std::int64_t rows = target.shape.rows, cols = target.shape.cols, blocks = lazy->blocks();
  // Standard products store [K, N] with blocks along axis 0, whatever way the float weight lay: runtimes fuse that.
  const bool across = options_.standard && !target.table;
  const bool is_signed = options_.format.symmetric, standard = options_.standard, table = target.table;
  Parts parts;
  const auto add = [&](const std::string& suffix, DType type, Dims dims, DeferredFn bytes) {
    Tensor tensor = Tensor::deferred(type, std::move(dims), std::move(bytes));
    parts.bytes += tensor.nbytes();
    return add_constant(graph, std::move(tensor), name + suffix);
  };
  const DType type = standard ? standard_type(bits, is_signed) : DType::kUint8;
  const Dims code_dims = standard ? (across ? Dims{cols, rows} : Dims{rows, cols})
                         : table  ? Dims{rows, cols * bits / 8}
                                  : Dims{rows, blocks, options_.format.block * bits / 8};
  parts.codes = add(fmt::format("_{}Q{}", standard ? "DQ_" : "", bits), type, code_dims,
                    part_of(lazy, name, 0, [=](const BlockCodes& c) -> Result<Buffer> {
                      return standard ? pack_standard(c, bits, across, is_signed) : pack_rows(c, bits, !table);
                    }));
  const Dims scale_dims = across ? Dims{blocks, rows} : Dims{rows, blocks};
  parts.scales = add(standard ? "_DQ_scales" : "_scales", target.type, scale_dims,
                     part_of(lazy, name, 1, [type = target.type, across](const BlockCodes& c) {
                       return pack_scales(c, type, across);
                     }));
  if (has_zeros) {
    parts.zeros = add(standard ? "_DQ_zero_points" : "_zero_points", type,
                      standard ? scale_dims : Dims{rows, (blocks * bits + 7) / 8},
                      part_of(lazy, name, 2, [=](const BlockCodes& c) -> Result<Buffer> {
                        return standard ? pack_standard_zeros(c, bits, across) : pack_zero_rows(c, bits);
                      }));
  }
  return made_[key] = parts;
}

void WeightRewriter::emit_matmul(Graph& graph, const WeightTarget& target, const Parts& parts) const {
  Node& node = *target.node;
  Value* bias = node.is("Gemm") ? node.input(2) : nullptr;
  // MatMulNBits takes a bias of exactly N numbers; anything else stays an Add.
  const Tensor* bias_tensor = constant(bias);
  const bool inner_bias = bias_tensor != nullptr && bias_tensor->dims() == Dims{target.shape.rows};
  std::vector<Value*> inputs = {node.input(0), parts.codes, parts.scales, parts.zeros};
  if (inner_bias) inputs.insert(inputs.end(), {nullptr, bias});
  while (inputs.back() == nullptr) inputs.pop_back();
  NodeSpec spec = in_place_of(node, "MatMulNBits", std::move(inputs), "com.microsoft");
  spec.attributes.emplace_back("K", target.shape.cols);
  spec.attributes.emplace_back("N", target.shape.rows);
  spec.attributes.emplace_back("bits", std::int64_t{options_.format.bits});
  spec.attributes.emplace_back("block_size", options_.format.block);
  spec.attributes.emplace_back("accuracy_level", options_.accuracy_level);
  Node* made = graph.insert(std::move(spec), &node);
  if (bias != nullptr && !inner_bias) {
    made = graph.insert(in_place_of(node, "Add", {made->output(), bias}, ""), &node);
  }
  replace_and_erase(graph, node, *made->output());
}

void WeightRewriter::emit_gather(Graph& graph, const WeightTarget& target, const Parts& parts) const {
  Node& node = *target.node;
  std::vector<Value*> inputs = {parts.codes, node.input(1), parts.scales};
  if (parts.zeros != nullptr) inputs.push_back(parts.zeros);
  NodeSpec spec = in_place_of(node, "GatherBlockQuantized", std::move(inputs), "com.microsoft");
  spec.attributes.emplace_back("bits", std::int64_t{options_.format.bits});
  spec.attributes.emplace_back("block_size", options_.format.block);
  spec.attributes.emplace_back("gather_axis", std::int64_t{0});
  spec.attributes.emplace_back("quantize_axis", std::int64_t{1});
  Node* made = graph.insert(std::move(spec), &node);
  replace_and_erase(graph, node, *made->output());
}

void WeightRewriter::emit_standard(Graph& graph, const WeightTarget& target, const Parts& parts) const {
  Node& node = *target.node;
  const std::int64_t rows = target.shape.rows, cols = target.shape.cols;
  std::vector<Value*> inputs = {parts.codes, parts.scales};
  if (parts.zeros != nullptr) inputs.push_back(parts.zeros);
  NodeSpec spec{
      "DequantizeLinear",
      std::move(inputs),
      {{target.weight->name() + "_DQ", Type::tensor(target.type, target.table ? Dims{rows, cols} : Dims{cols, rows})}},
      {},
      "",
      ""};
  spec.attributes.emplace_back("axis", std::int64_t{target.table ? 1 : 0});
  spec.attributes.emplace_back("block_size", options_.format.block);
  Node* made = graph.insert(std::move(spec), &node);
  node.remove_attribute("transB");
  Value* before = node.input(target.input);
  graph.set_input(node, target.input, made->output());
  if (before != target.weight) erase_if_unused(graph, *before);  // Transpose or Cast on the way to the weight
}

void WeightRewriter::rewrite(Graph& graph, const WeightTarget& target, const BlocksFactory& make,
                             PassContext& context) {
  const std::int64_t before = constant(target.weight)->nbytes();
  const std::string label = target.node->label();
  const Parts parts = parts_of(target, make);
  if (options_.standard) {
    emit_standard(graph, target, parts);
  } else if (target.table) {
    emit_gather(graph, target, parts);
  } else {
    emit_matmul(graph, target, parts);
  }
  context.applied(label, fmt::format("{} bits, blocks of {}", options_.format.bits, options_.format.block), before,
                  parts.bytes);
}

}  // namespace onnxfold
