#include "passes/quantize/weight_rewrite.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "formats/onnx/schema.h"
#include "ir/match.h"
#include "passes/quantize/norm_importance.h"
#include "passes/quantize/packing.h"
#include "passes/quantize/product_kernel.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

NodeSpec in_place_of(const Node& node, std::string op, std::vector<Value*> inputs, std::string domain) {
  const Value& output = *node.output();
  return {std::move(op), std::move(inputs), {{output.name(), output.type()}}, {}, std::move(domain), node.name};
}

// A weight that something else still reads as floats is stored twice: worth knowing.
void note_float_readers(const WeightTarget& target, PassContext& context) {
  const Value& weight = *target.weight;
  if (weight.uses().empty()) return;
  const Node* reader = weight.uses().front().node;
  context.note(weight.name(), fmt::format("warning: is also read in floating point by {}; both copies stay in the file",
                                          reader == nullptr ? "an output of the model" : reader->label()));
}

// One warning for each reason, not for each weight.
void warn_of_slow_kernels(const std::vector<WeightTarget>& targets, const WeightOptions& options,
                          PassContext& context) {
  std::map<std::string, int> reasons;
  for (const WeightTarget& target : targets) {
    if (std::string why = slowness(target, options); !why.empty()) ++reasons[why];
  }
  for (const auto& [why, count] : reasons) {
    context.note("model",
                 fmt::format("warning: slow with ONNX Runtime, {} weight{}: {}", count, count == 1 ? "" : "s", why));
  }
}

// The node of `outer` that is `node` or has it in a body.
const Node* node_around(const Node& node, const Graph& outer) {
  if (node.graph() == &outer) return &node;
  const Graph* body = node.graph();
  while (body->parent() != &outer) body = body->parent();
  for (const Node* each : outer.nodes()) {
    const auto inner = each->subgraphs();
    if (std::find(inner.begin(), inner.end(), body) != inner.end()) return each;
  }
  return nullptr;
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
  if (graph.parent() != nullptr) return false;
  Model& model = context.model();
  PassContext unheard(model, "");
  std::int64_t needed = 0;
  for (const Graph* each : model.graphs()) {
    for (const WeightTarget& target : find_weight_targets(*each, options_, unheard)) {
      needed = std::max(needed, opset_needed(target, options_));
    }
  }
  if (graph.opset() >= needed) return false;
  if (auto status = convert_opset(model, needed); !status) {
    return fail(Code::kUnsupported,
                fmt::format("{} needs opset {}, and the model cannot be raised: {}; use form=matmulnbits{}",
                            options_.standard ? "form=dequantizelinear" : "others", needed, status.error().message,
                            options_.other_bits != 0 ? ",others=none" : ""));
  }
  OF_TRY(infer_shapes(model));
  context.note("model", fmt::format("opset raised to {} for DequantizeLinear", needed));
  return true;
}

WeightRewriter::Key WeightRewriter::key_of(const WeightTarget& target) {
  return {target.weight, target.shape.inner, target.type, target.format.bits, target.format.block};
}

// The table reads the product's codes, cut where its last block goes on behind the row; in the standard form the
// product reads the table's codes transposed.
void WeightRewriter::find_tied(const std::vector<WeightTarget>& targets) {
  std::map<Key, std::pair<bool, bool>> read;  // as a table, as a product
  for (const WeightTarget& target : targets) {
    if (target.use == WeightUse::kOther || target.format.float_zeros) continue;
    // ONNX Runtime 1.32 cannot fold a Transpose of 2-bit codes at load, and then loads nothing.
    if (target.standard(options_) && target.format.stored_bits() < 4) continue;
    (target.table() ? read[key_of(target)].first : read[key_of(target)].second) = true;
  }
  for (const auto& [key, how] : read) {
    if (how.first && how.second) tied_.insert(key);
  }
}

Result<bool> WeightRewriter::run(Graph& graph, PassContext& context, const BlocksFactory& make) {
  OF_TRY(options_.check());
  OF_ASSIGN(const bool raised, raise_opset(graph, context));
  const std::vector<WeightTarget> targets = find_weight_targets(graph, options_, context);
  find_tied(targets);
  warn_of_slow_kernels(targets, options_, context);
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

const WeightParts& WeightRewriter::parts_of(const WeightTarget& target, const BlocksFactory& make) {
  const Key key = key_of(target);
  const bool tied = tied_.contains(key) && target.use != WeightUse::kOther;
  const bool standard = target.standard(options_);
  const auto slot = std::make_pair(key, !tied ? target.use : standard ? WeightUse::kTable : WeightUse::kProduct);
  const auto found = made_.find(slot);
  if (found != made_.end()) {
    found->second.bytes = 0;  // counted with its first reader
    return found->second;
  }
  if (!standard) return made_[slot] = add_weight_parts(target, options_, make(target), tied);
  WeightTarget as_stored = target;
  if (tied) as_stored.use = WeightUse::kTable;
  return made_[slot] = add_weight_parts(as_stored, options_, make(target), /*tied=*/false);
}

void WeightRewriter::emit_matmul(Graph& graph, const WeightTarget& target, const WeightParts& parts) const {
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
  spec.attributes.emplace_back("bits", std::int64_t{target.format.stored_bits()});
  spec.attributes.emplace_back("block_size", operator_block(target.format, target.shape.cols));
  spec.attributes.emplace_back("accuracy_level",
                               accuracy_level_for(node, target.format.stored_bits(), options_.accuracy_level));
  Node* made = graph.insert(std::move(spec), &node);
  if (const float alpha = node.attr_float("alpha", 1); alpha != 1 && node.is("FusedMatMul", "com.microsoft")) {
    Value* factor = add_constant(graph, *from_doubles(target.type, {}, std::vector{static_cast<double>(alpha)}),
                                 node.output()->name() + "_alpha");
    made = graph.insert(in_place_of(node, "Mul", {made->output(), factor}, ""), &node);
  }
  if (bias != nullptr && !inner_bias) {
    made = graph.insert(in_place_of(node, "Add", {made->output(), bias}, ""), &node);
  }
  replace_and_erase(graph, node, *made->output());
}

void WeightRewriter::emit_gather(Graph& graph, const WeightTarget& target, const WeightParts& parts) const {
  Node& node = *target.node;
  Value* codes = parts.table_codes != nullptr ? parts.table_codes : parts.codes;
  std::vector<Value*> inputs = {codes, node.input(1), parts.scales};
  if (parts.zeros != nullptr) inputs.push_back(parts.zeros);
  NodeSpec spec = in_place_of(node, "GatherBlockQuantized", std::move(inputs), "com.microsoft");
  spec.attributes.emplace_back("bits", std::int64_t{target.format.stored_bits()});
  spec.attributes.emplace_back("block_size", operator_block(target.format, target.shape.cols));
  spec.attributes.emplace_back("gather_axis", std::int64_t{0});
  spec.attributes.emplace_back("quantize_axis", std::int64_t{1});
  Node* made = graph.insert(std::move(spec), &node);
  replace_and_erase(graph, node, *made->output());
}

void WeightRewriter::emit_standard(Graph& graph, const WeightTarget& target, const WeightParts& parts) const {
  Node& node = *target.node;
  const std::int64_t rows = target.shape.rows, cols = target.shape.cols;
  const bool product = target.use == WeightUse::kProduct, whole_rows = target.format.block == 0;
  // Weights that several bodies read are decoded where they are, before the bodies run.
  Graph& home = *parts.codes->graph();
  const Node& reader = *node_around(node, home);
  const Dims dims = product ? Dims{cols, rows} : target.table() ? Dims{rows, cols} : target.dims;
  const std::string name = target.weight->name() + "_DQ";
  std::vector<Value*> inputs = {parts.codes, parts.scales};
  if (parts.zeros != nullptr) inputs.push_back(parts.zeros);
  if (product && tied_.contains(key_of(target))) {
    for (Value*& part : inputs) {  // runtimes fold it at load; what there is one of for each row stays
      if (part->rank() == 2) part = insert_transpose(home, reader, *part);
    }
  }
  NodeSpec spec{"DequantizeLinear", std::move(inputs), {{name, Type::tensor(target.scale_type(), dims)}}, {}, "", ""};
  const std::int64_t blocks_along = product ? 0 : target.table() ? 1 : target.axis;
  spec.attributes.emplace_back("axis", whole_rows && target.use != WeightUse::kOther ? 1 - blocks_along : blocks_along);
  if (!whole_rows) spec.attributes.emplace_back("block_size", target.format.block);
  Value* made = home.insert(std::move(spec), &reader)->output();
  if (target.type != target.scale_type()) {
    NodeSpec cast{"Cast", {made}, {{name + "_cast", Type::tensor(target.type, dims)}}, {}, "", ""};
    cast.attributes.emplace_back("to", static_cast<std::int64_t>(target.type));
    made = home.insert(std::move(cast), &reader)->output();
  }
  if (product) node.remove_attribute("transB");
  Value* before = node.input(target.input);
  graph.set_input(node, target.input, made);
  if (before != target.weight) erase_if_unused(graph, *before);  // Transpose or Cast on the way to the weight
}

void WeightRewriter::rewrite(Graph& graph, const WeightTarget& target, const BlocksFactory& make,
                             PassContext& context) {
  const std::int64_t before = constant(target.weight)->nbytes();
  const std::string label = target.node->label();
  const WeightParts parts = parts_of(target, make);
  if (target.standard(options_)) {
    emit_standard(graph, target, parts);
  } else if (target.table()) {
    emit_gather(graph, target, parts);
  } else {
    emit_matmul(graph, target, parts);
  }
  const std::string blocks =
      target.format.block == 0 ? "one scale a row" : fmt::format("blocks of {}", target.format.block);
  context.applied(label, fmt::format("{} bits, {}", target.format.bits, blocks), before, parts.bytes);
}

Result<bool> RulePass::run(Graph& graph, PassContext& context) {
  NormImportance importance;
  if (norms_) {
    PassContext unheard(context.model(), "");
    OF_ASSIGN(importance, NormImportance::find(graph, find_weight_targets(graph, rewriter_.options(), unheard)));
  }
  return rewriter_.run(graph, context, [this, &importance](const WeightTarget& target) {
    const auto make = [weight = *constant(target.weight), shape = target.shape, format = target.format,
                       type = target.scale_type(), rule = rule_, columns = importance.of(target)] {
      return quantize_blocks(weight, shape, format, type, rule,
                             columns ? std::span<const float>(*columns) : std::span<const float>());
    };
    return std::make_shared<LazyBlocks>(target.shape, target.format, part_count(target.format), make);
  });
}

}  // namespace onnxfold
