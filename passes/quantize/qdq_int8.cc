// op(x, W, b) => op(DequantizeLinear(QuantizeLinear(x)), DequantizeLinear(Wq), DequantizeLinear(bq)), op: MatMul, Gemm,
// Conv.
//
// Conditions: constant float32 weight; calibration data. Lossy. Activations in uint8 with one scale a value, from
// ranges seen on the data; weights in int8 with one scale a channel; the bias in int32 with the scale of both. Placed
// so that ONNX Runtime makes integer kernels of it: MatMulIntegerToFloat, QGemm, and QLinearConv, which needs its
// output quantized too (behind the Relu that follows it).
#include <fmt/format.h>

#include <map>
#include <set>

#include "formats/onnx/schema.h"
#include "ir/match.h"
#include "passes/quantize/activation_range.h"
#include "passes/quantize/channel_int8.h"
#include "passes/quantize/int8_target.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kPerAxisOpset = 13;  // first with scales by channel

struct QdqOptions {
  Int8Options targets;
  RangeMethod method = RangeMethod::kMinMax;
  double percentile = 99.99;
};

// What a Conv hands on: behind the Relu that follows it, which a quantized output absorbs.
Value* conv_result(const Node& conv) {
  Node* next = sole_consumer(conv.output());
  return next != nullptr && next->is("Relu") ? next->output() : conv.output();
}

class QdqInt8 final : public Pass {
 public:
  explicit QdqInt8(QdqOptions options) : options_(std::move(options)) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (context.calibration == nullptr || context.calibration->batches.empty()) {
      return fail(Code::kInvalidArgument,
                  "needs data to see ranges on: give --calibration FILE.npz, or use dynamic-int8");
    }
    if (graph.parent() != nullptr) return false;  // no range is known inside a subgraph
    std::vector<Int8Target> targets = find_int8_targets(graph, options_.targets, context);
    if (targets.empty()) return false;
    bool raised = false;
    if (graph.opset() < kPerAxisOpset) {
      OF_TRY(convert_opset(context.model(), kPerAxisOpset));
      OF_TRY(infer_shapes(context.model()));
      PassContext unheard(context.model(), "");
      targets = find_int8_targets(graph, options_.targets, unheard);
      raised = true;
    }
    OF_TRY(see_ranges(targets, context));
    bool any = raised;
    for (const Int8Target& target : targets) {
      OF_ASSIGN(const bool changed, rewrite(graph, target, context));
      any = any || changed;
    }
    return any;
  }

 private:
  Status see_ranges(const std::vector<Int8Target>& targets, PassContext& context) {
    std::set<std::string> names;
    for (const Int8Target& target : targets) {
      names.insert(target.node->input(0)->name());
      if (target.node->is("Conv")) names.insert(conv_result(*target.node)->name());
    }
    OF_ASSIGN(const auto histograms, collect_histograms(context.model(), *context.calibration,
                                                        std::vector<std::string>(names.begin(), names.end())));
    for (const auto& [name, histogram] : histograms) {
      if (!histogram.finite || histogram.total == 0) continue;
      grids_[name] = uint8_grid(choose_range(histogram, options_.method, options_.percentile));
    }
    return {};
  }

  Result<bool> rewrite(Graph& graph, const Int8Target& target, PassContext& context) {
    Node& node = *target.node;
    Value* input = node.input(0);
    Value* result = node.is("Conv") ? conv_result(node) : nullptr;
    const std::int64_t before = constant(target.weight)->nbytes();
    if (!used_.contains(input) && !grids_.contains(input->name())) {
      context.skipped(node.label(), "no finite range of its input was seen", before);
      return false;
    }
    auto made = quantize_channels(*constant(target.weight), target.axis, options_.targets.limit);
    if (!made) return fail(made.error().in(fmt::format("weight '{}'", target.weight->name())));
    Value* decoded = decode(graph, *input, node);
    const Uint8Grid grid = used_.at(decoded);
    put_bias(graph, target, made->scales, grid);
    put_weight(graph, target, *made);
    graph.set_input(node, 0, decoded);
    if (result != nullptr && grids_.contains(result->name())) quantize_result(graph, *result);
    context.applied(node.label(), "uint8 activations, int8 weights by channel", before,
                    before / 4 + 4 * target.channels);
    return true;
  }

  // `value` rounded to uint8 and back, in front of `before`; once for all who read it.
  Value* decode(Graph& graph, Value& value, const Node& before) {
    if (used_.contains(&value)) return &value;  // rounded where it was made
    if (const auto found = decoded_.find(&value); found != decoded_.end()) return found->second;
    Value* made = add_pair(graph, value, &before);
    decoded_[&value] = made;
    return made;
  }

  Value* add_pair(Graph& graph, Value& value, const Node* before) {
    const Uint8Grid grid = grids_.at(value.name());
    Value* scale = add_constant(graph, Tensor::scalar(grid.scale), value.name() + "_scale");
    Value* zero = add_constant(graph, Tensor::of<std::uint8_t>({}, {grid.zero}), value.name() + "_zero_point");
    Type codes = value.type();
    codes.dtype = DType::kUint8;
    Node* quantize = graph.insert(
        {"QuantizeLinear", {&value, scale, zero}, {{value.name() + "_QuantizeLinear_Output", codes}}, {}, "", ""},
        before);
    Node* decode = graph.insert({"DequantizeLinear",
                                 {quantize->output(), scale, zero},
                                 {{value.name() + "_DequantizeLinear_Output", value.type()}},
                                 {},
                                 "",
                                 ""},
                                before);
    used_[decode->output()] = grid;
    return decode->output();
  }

  // Everything that reads the result of a Conv reads it rounded.
  void quantize_result(Graph& graph, Value& result) {
    const auto after = graph.nodes();
    const Node* next = nullptr;
    for (std::size_t i = 0; i + 1 < after.size(); ++i) {
      if (after[i] == result.producer()) next = after[i + 1];
    }
    Value* decoded = add_pair(graph, result, next);
    Node* quantize = decoded->producer()->input(0)->producer();
    if (!graph.can_replace(result, *decoded)) {
      graph.erase(*decoded->producer());
      graph.erase(*quantize);
      return;
    }
    graph.replace_all_uses(result, *decoded);
    graph.set_input(*quantize, 0, &result);
  }

  void put_weight(Graph& graph, const Int8Target& target, const ChannelInt8& made) {
    Value*& decoded = weights_[{target.weight, target.axis}];
    if (decoded == nullptr) {
      const std::string name = target.weight->name();
      Value* codes = add_constant(graph, made.codes, name + "_quantized");
      Value* scales = add_constant(graph, Tensor::of<float>({target.channels}, made.scales), name + "_scale");
      Value* zeros = add_constant(
          graph, Tensor::owned(DType::kInt8, {target.channels}, Buffer(static_cast<std::size_t>(target.channels))),
          name + "_zero_point");
      NodeSpec spec{"DequantizeLinear",
                    {codes, scales, zeros},
                    {{name + "_DequantizeLinear_Output", Type::tensor(DType::kFloat32, made.codes.dims())}},
                    {},
                    "",
                    ""};
      spec.attributes.emplace_back("axis", target.axis);
      const std::vector<Node*> nodes = graph.nodes();
      decoded = graph.insert(std::move(spec), nodes.front())->output();
    }
    graph.set_input(*target.node, 1, decoded);
    erase_if_unused(graph, *target.weight);
  }

  void put_bias(Graph& graph, const Int8Target& target, const std::vector<float>& scales, const Uint8Grid& grid) {
    if (target.bias == nullptr) return;
    auto bias = to_floats(*constant(target.bias));
    if (!bias) return;
    const std::string name = target.bias->name();
    std::vector<float> steps;
    for (const float scale : scales) steps.push_back(scale * grid.scale);
    Value* codes = add_constant(graph, int32_bias(*bias, scales, grid.scale), name + "_quantized");
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
  std::map<std::string, Uint8Grid> grids_;                           // by value name
  std::map<const Value*, Value*> decoded_;                           // value to its rounded form; looked up only
  std::map<const Value*, Uint8Grid> used_;                           // rounded form to its grid; looked up only
  std::map<std::pair<const Value*, std::int64_t>, Value*> weights_;  // looked up only
};

}  // namespace

std::unique_ptr<Pass> make_qdq_int8(const PassOptions& options) {
  QdqOptions made;
  made.targets = int8_options(options);
  const std::string& method = options.text("ranges");
  made.method = method == "percentile" ? RangeMethod::kPercentile
                : method == "entropy"  ? RangeMethod::kEntropy
                : method == "mse"      ? RangeMethod::kMse
                                       : RangeMethod::kMinMax;
  made.percentile = options.number("percentile");
  return std::make_unique<QdqInt8>(std::move(made));
}

}  // namespace onnxfold
