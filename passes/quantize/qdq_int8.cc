// op(x, W, b) => op(DequantizeLinear(QuantizeLinear(x)), DequantizeLinear(Wq), DequantizeLinear(bq)), op: MatMul, Gemm,
// Conv; and what lies between convolutions (integer_flow.h) with every operand and result rounded; HardSwish and
// HardSigmoid there as sums, clips and products (hard_activation.h), products with and sums of one number behind a
// rounded result in what the codes stand for (rounded_result.h).
//
// Conditions: constant weight read as float32 (Transpose, Cast or Identity in between or not); calibration data. Lossy.
// Activations in uint8 with one scale a value, from ranges seen on the data; weights in int8 with one scale a channel;
// the bias in int32 with the scale of both. Placed so that ONNX Runtime makes integer kernels of it:
// MatMulIntegerToFloat, QGemm, and QLinearConv, which needs its output quantized too (behind the Relu or Clip that
// follows it). Embedding tables in int8 too (table_int8.h).
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "formats/onnx/schema.h"
#include "ir/match.h"
#include "passes/quantize/activation_range.h"
#include "passes/quantize/channel_int8.h"
#include "passes/quantize/hard_activation.h"
#include "passes/quantize/integer_flow.h"
#include "passes/quantize/qdq_pairs.h"
#include "passes/quantize/table_int8.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kPerAxisOpset = 13;  // first with scales by channel

struct QdqOptions {
  Int8Options targets;
  RangeMethod method = RangeMethod::kMinMax;
  double percentile = 99.99;
  bool between = true;  // also what lies between convolutions
};

class QdqInt8 final : public Pass {
 public:
  explicit QdqInt8(QdqOptions options) : options_(std::move(options)) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (context.calibration == nullptr || context.calibration->batches.empty()) {
      return fail(Code::kInvalidArgument,
                  "needs data to see ranges on: give --calibration FILE.npz, or use dynamic-int8");
    }
    if (graph.parent() != nullptr) {
      name_weights(graph, options_.targets, "stands in a body, where no ranges are seen; dynamic-int8 takes it",
                   context);
      return false;
    }
    std::vector<Int8Target> targets = find_int8_targets(graph, options_.targets, context);
    bool any = false;
    if (!targets.empty()) {
      OF_ASSIGN(any, quantize_products(graph, std::move(targets), context));
    }
    if (options_.targets.tables) {
      OF_ASSIGN(const bool tables, quantize_tables(graph, options_.targets, context));
      any = any || tables;
    }
    return any;
  }

 private:
  Result<bool> quantize_products(Graph& graph, std::vector<Int8Target> targets, PassContext& context) {
    bool raised = false;
    if (graph.opset() < kPerAxisOpset) {
      OF_TRY(convert_opset(context.model(), kPerAxisOpset));
      OF_TRY(infer_shapes(context.model()));
      PassContext unheard(context.model(), "");
      targets = find_int8_targets(graph, options_.targets, unheard);
      raised = true;
    }
    if (options_.between) spell_hard_activations(find_integer_flow(graph, targets, nullptr));
    OF_ASSIGN(auto grids, see_ranges(graph, targets, context));
    QdqPairs pairs(graph, std::move(grids));
    std::erase_if(targets, [&](const Int8Target& target) {
      if (pairs.known(*target.node->input(0))) return false;
      context.skipped(target.node->label(), "no finite range of its input was seen", constant(target.weight)->nbytes());
      return true;
    });
    OF_TRY(rewrite_all(graph, targets, pairs, context));
    return raised || !targets.empty();
  }

  IntegerFlow flow_of(const Graph& graph, const std::vector<Int8Target>& targets, const GridsByName* grids) const {
    IntegerFlow flow = find_integer_flow(graph, targets, grids);
    if (!options_.between) flow.nodes.clear();
    return flow;
  }

  // Grids of every value that may be rounded, by name.
  Result<GridsByName> see_ranges(const Graph& graph, const std::vector<Int8Target>& targets,
                                 PassContext& context) const {
    std::set<std::string> names;
    for (const Int8Target& target : targets) {
      names.insert(target.node->input(0)->name());
      if (target.node->is("Conv")) add_results(*target.node->output(), names);
    }
    for (const FlowNode& made : flow_of(graph, targets, nullptr).nodes) {
      for (const std::size_t i : made.operands) {
        if (constant(made.node->input(i)) == nullptr) names.insert(made.node->input(i)->name());
      }
      if (!made.moves) add_results(*made.node->output(), names);
    }
    OF_ASSIGN(const auto histograms, collect_histograms(context.model(), *context.calibration,
                                                        std::vector<std::string>(names.begin(), names.end())));
    GridsByName grids;
    for (const auto& [name, histogram] : histograms) {
      if (!histogram.finite || histogram.total == 0) continue;
      ActivationRange range = choose_range(histogram, options_.method, options_.percentile);
      range.low = std::min(0.0, std::max(range.low, least_that_counts(*graph.find(name))));
      grids[name] = uint8_grid(range);
    }
    return grids;
  }

  static void add_results(Value& value, std::set<std::string>& names) {
    for (const RoundedResult& result : rounded_results(value)) names.insert(result.end->name());
  }

  // From the front to the end, so that what reads a rounded result finds it rounded.
  Status rewrite_all(Graph& graph, const std::vector<Int8Target>& targets, QdqPairs& pairs, PassContext& context) {
    std::map<const Node*, const Int8Target*> by_node;  // looked up only
    for (const Int8Target& target : targets) by_node[target.node] = &target;
    const IntegerFlow flow = flow_of(graph, targets, &pairs.grids());
    std::map<const Node*, const FlowNode*> between;  // looked up only
    for (const FlowNode& made : flow.nodes) between[made.node] = &made;
    std::map<std::string, int> counts;
    for (Node* node : graph.nodes()) {
      if (const auto found = by_node.find(node); found != by_node.end()) {
        OF_TRY(rewrite(graph, *found->second, flow, pairs, context));
      } else if (const auto flowing = between.find(node); flowing != between.end()) {
        ++counts[node->op_type()];
        rewrite_between(*flowing->second, flow, pairs);
      }
    }
    std::string text;
    for (const auto& [op, count] : counts) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, op);
    if (!text.empty()) context.note("model", "between them on 8 bits: " + text);
    return {};
  }

  static void rewrite_between(const FlowNode& made, const IntegerFlow& flow, QdqPairs& pairs) {
    Node& node = *made.node;
    for (const std::size_t i : made.operands) {
      Value& operand = *node.input(i);
      node.graph()->set_input(node, i, pairs.read(operand, node));
      erase_if_unused(*node.graph(), operand);  // numbers that are codes now
    }
    if (!made.moves) return round(*node.output(), flow, pairs);
    for (Value* output : node.outputs()) {
      if (output != nullptr) pairs.round_result_as(*output, *node.input(0));
    }
  }

  static void round(Value& value, const IntegerFlow& flow, QdqPairs& pairs) {
    const auto found = flow.results.find(&value);
    if (found != flow.results.end()) pairs.round_result(value, found->second);
  }

  Status rewrite(Graph& graph, const Int8Target& target, const IntegerFlow& flow, QdqPairs& pairs,
                 PassContext& context) {
    Node& node = *target.node;
    const std::int64_t before = constant(target.weight)->nbytes();
    Value* decoded = pairs.read(*node.input(0), node);
    std::vector<float> least;
    if (target.bias != nullptr) {
      auto found = least_scales(*constant(target.bias), pairs.scale_of(*decoded));
      if (!found) return fail(found.error().in(fmt::format("bias '{}'", target.bias->name())));
      least = std::move(*found);
    }
    auto made = quantize_channels(*constant(target.weight), target.axis, options_.targets.limit, least);
    if (!made) return fail(made.error().in(fmt::format("weight '{}'", target.weight->name())));
    put_bias(graph, target, made->scales, pairs.scale_of(*decoded));
    OF_TRY(put_weight(graph, target, *made));
    graph.set_input(node, 0, decoded);
    if (node.is("Conv")) round(*node.output(), flow, pairs);
    context.applied(node.label(), "uint8 activations, int8 weights by channel", before,
                    before / 4 + 4 * target.channels);
    return {};
  }

  Status put_weight(Graph& graph, const Int8Target& target, const ChannelInt8& made) {
    const std::int64_t axis = target.transposed ? 1 - target.axis : target.axis;  // as the node reads it
    Value*& decoded = weights_[{target.weight, target.axis, target.transposed, made.widened ? target.node : nullptr}];
    if (decoded == nullptr) {
      const std::string name = target.weight->name();
      Tensor tensor = made.codes;
      if (target.transposed) {
        OF_ASSIGN(tensor, transposed_codes(made.codes));
      }
      Value* codes = add_constant(graph, tensor, name + "_quantized");
      Value* scales = add_constant(graph, Tensor::of<float>({target.channels}, made.scales), name + "_scale");
      Value* zeros = add_constant(
          graph, Tensor::owned(DType::kInt8, {target.channels}, Buffer(static_cast<std::size_t>(target.channels))),
          name + "_zero_point");
      NodeSpec spec{"DequantizeLinear",
                    {codes, scales, zeros},
                    {{name + "_DequantizeLinear_Output", Type::tensor(DType::kFloat32, tensor.dims())}},
                    {},
                    "",
                    ""};
      spec.attributes.emplace_back("axis", axis);
      const std::vector<Node*> nodes = graph.nodes();
      decoded = graph.insert(std::move(spec), nodes.front())->output();
    }
    Value* read = target.node->input(1);
    graph.set_input(*target.node, 1, decoded);
    erase_if_unused(graph, *read);
    return {};
  }

  void put_bias(Graph& graph, const Int8Target& target, const std::vector<float>& scales, float input_scale) {
    if (target.bias == nullptr) return;
    auto bias = to_floats(*constant(target.bias));
    if (!bias) return;
    const std::string name = target.bias->name();
    std::vector<float> steps;
    for (const float scale : scales) steps.push_back(scale * input_scale);
    Value* codes = add_constant(graph, int32_bias(*bias, scales, input_scale), name + "_quantized");
    Value* step = add_constant(graph, Tensor::of<float>({target.channels}, steps), name + "_quantized_scale");
    NodeSpec spec{"DequantizeLinear",
                  {codes, step},
                  {{name + "_DequantizeLinear_Output", Type::tensor(DType::kFloat32, Dims{target.channels})}},
                  {},
                  "",
                  ""};
    spec.attributes.emplace_back("axis", std::int64_t{0});
    Node* decode = graph.insert(std::move(spec), target.node);
    graph.set_input(*target.node, 2, decode->output());
    erase_if_unused(graph, *target.bias);
  }

  QdqOptions options_;
  // Scales that a bias widened are those of one node. Looked up only.
  std::map<std::tuple<const Value*, std::int64_t, bool, const Node*>, Value*> weights_;
};

}  // namespace

std::unique_ptr<Pass> make_qdq_int8(const PassOptions& options) {
  QdqOptions made;
  made.targets = int8_options(options);
  const std::string& method = options.text("ranges");
  made.method = method == "percentile" ? RangeMethod::kPercentile
                : method == "entropy"  ? RangeMethod::kEntropy
                : method == "mse"      ? RangeMethod::kMse
                : method == "cubed"    ? RangeMethod::kCubed
                                       : RangeMethod::kMinMax;
  made.percentile = options.number("percentile");
  made.between = options.text("between") == "integer";
  return std::make_unique<QdqInt8>(std::move(made));
}

}  // namespace onnxfold
