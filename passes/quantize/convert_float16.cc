// y = Op(x, W) in float32 => Cast, Op in float16, Cast: for operators that are safe in half precision.
//
// Which: the list kHalf, unless keep names the operator or node; sums of squares and what is made of them
// (statistics_chain.h), exponentials, normalizations by batch and everything unknown stay in float32, with Casts
// between. Graph inputs and outputs keep their types. A weight with numbers beyond 65504 keeps its node in float32
// unless they are masks (infinite or near the end of float32), which are clamped; both are said. So do matrices of
// nothing but numbers that are no normal halves, and whole numbers (positions, sizes) that 16 bits cannot tell apart.
// With calibration data nodes whose results come near 65504 there stay in float32 as well. weights-only (and bfloat16,
// which few runtimes compute in; numbers beyond its largest, 3.39e38, are clamped): weights alone are stored in 16 bits
// with a Cast that runtimes fold at load. Lossy.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string_view>

#include "analysis/calibrate/dataset.h"
#include "exec/executor.h"
#include "ir/numeric.h"
#include "passes/pass.h"
#include "passes/quantize/statistics_chain.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr double kMostHalf = 65504;
constexpr double kMostBFloat16 = 0x1.FEp127;
constexpr double kLeastHalf = 0x1p-25, kLeastBFloat16 = 0x1p-134;  // what is not larger becomes 0
constexpr double kLeastNormalHalf = 0x1p-14;
constexpr double kMask = 1e30;  // numbers beyond stand for infinity
constexpr double kReserve = 4;  // results on data stay that far below the largest half

// No intermediate result of these grows beyond their operands and outputs.
const std::set<std::string, std::less<>> kHalf = {
    "Abs",       "Add",           "AveragePool", "Clip",     "Concat",
    "Conv",      "ConvTranspose", "Div",         "Dropout",  "Elu",
    "Erf",       "Expand",        "Flatten",     "Gather",   "Gelu",
    "Gemm",      "HardSigmoid",   "HardSwish",   "Identity", "LayerNormalization",
    "LeakyRelu", "MatMul",        "Max",         "MaxPool",  "Min",
    "Mul",       "Neg",           "Pad",         "PRelu",    "Relu",
    "Reshape",   "Sigmoid",       "Slice",       "Softmax",  "Split",
    "Squeeze",   "Sub",           "Tanh",        "Tile",     "Transpose",
    "Unsqueeze", "Where"};

struct Range {
  std::int64_t beyond = 0, masks = 0, vanished = 0;
  std::int64_t merged = 0;  // whole numbers that change, where all are whole
  double largest = 0;
};

Result<Range> range_of(const Tensor& tensor, DType type) {
  OF_ASSIGN(const std::vector<float> values, to_floats(tensor));
  const bool half = type == DType::kFloat16;
  const double most = half ? kMostHalf : kMostBFloat16, least = half ? kLeastHalf : kLeastBFloat16;
  Range range;
  bool whole = true;
  for (const float value : values) {
    const double exact = static_cast<double>(value), size = std::fabs(exact);
    if (size > most) ++(size > kMask ? range.masks : range.beyond);
    if (size != 0 && size <= least) ++range.vanished;
    if (!(size <= std::min(most, kMask))) continue;
    range.largest = std::max(range.largest, size);
    whole = whole && value == std::round(value);
    if (whole && round_to(type, exact) != exact) ++range.merged;
  }
  if (!whole) range.merged = 0;
  return range;
}

// Why the numbers of a constant stay as they are; empty: nothing is lost but the last digits of some.
std::string digits_lost(const Tensor& tensor, const Range& numbers, DType type) {
  if (numbers.merged > 0) return fmt::format("{} whole numbers would change", numbers.merged);
  const bool tiny = type == DType::kFloat16 && numbers.largest > 0 && numbers.largest < kLeastNormalHalf;
  if (tiny && tensor.rank() >= 2) return fmt::format("all numbers are below {:.2g}", kLeastNormalHalf);
  return {};
}

// The same numbers in 16 bits, made when the file is written; masks become the largest number of their sign (in
// bfloat16 infinity stays).
Tensor in_16_bits(const Tensor& from, DType type) {
  return Tensor::deferred(type, from.dims(), [from, type]() -> Result<Buffer> {
    OF_ASSIGN(const std::vector<float> values, to_floats(from));
    Buffer out(values.size() * 2);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto half = static_cast<float>(kMostHalf), most = static_cast<float>(kMostBFloat16);
      const std::uint16_t bits = type == DType::kFloat16    ? float_to_half(std::clamp(values[i], -half, half))
                                 : std::isfinite(values[i]) ? float_to_bfloat16(std::clamp(values[i], -most, most))
                                                            : float_to_bfloat16(values[i]);
      out[2 * i] = static_cast<std::byte>(bits & 0xFF);
      out[2 * i + 1] = static_cast<std::byte>(bits >> 8);
    }
    return out;
  });
}

Type with_dtype(Type type, DType dtype) {
  type.dtype = dtype;
  return type;
}

NodeSpec cast_of(Value& value, DType to, const char* suffix) {
  NodeSpec spec{"Cast", {&value}, {{value.name() + suffix, with_dtype(value.type(), to)}}, {}, "", ""};
  spec.attributes.emplace_back("to", static_cast<std::int64_t>(to));
  return spec;
}

class ConvertFloat16 final : public Pass {
 public:
  explicit ConvertFloat16(const PassOptions& options)
      : type_(options.text("to") == "bfloat16" ? DType::kBFloat16 : DType::kFloat16),
        weights_only_(options.flag("weights-only") || type_ == DType::kBFloat16),
        min_elements_(options.integer("min-elements")),
        keep_(options.patterns("keep")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (graph.opset() < 13 && type_ == DType::kBFloat16) {
      return fail(Code::kUnsupported, "bfloat16 needs opset 13; raise the model first (onnxfold convert)");
    }
    if (weights_only_) return store_weights(graph, context);
    if (graph.parent() == nullptr && context.calibration != nullptr) OF_TRY(see_results(graph, context));
    return convert(graph, context);
  }

 private:
  Status see_results(const Graph& graph, PassContext& context);
  Result<bool> store_weights(Graph& graph, PassContext& context);
  Result<bool> convert(Graph& graph, PassContext& context);
  Result<std::string> refusal(const Node& node);
  // What data said against this value in float16; empty: nothing.
  std::string too_large(const Value& value) const {
    const auto seen = largest_.find(value.name());
    if (seen == largest_.end() || seen->second <= kMostHalf / kReserve) return {};
    return fmt::format("'{}' reaches {:.3g} on the data", value.name(), seen->second);
  }
  Result<const Range*> range(const Value& value);
  Value* in_half(Graph& graph, Node& node, Value& value, PassContext& context);
  void give_back(Graph& graph, Value& value, const std::set<const Node*>& half);
  bool kept(const Node& node) const {
    return std::any_of(keep_.begin(), keep_.end(), [&](const std::string& pattern) {
      return glob_match(pattern, node.op_type()) || glob_match(pattern, node.name);
    });
  }

  void say_lost(const std::string& name, const Range& numbers, PassContext& context) const {
    const double most = type_ == DType::kFloat16 ? kMostHalf : kMostBFloat16;
    if (numbers.masks > 0) context.note(name, fmt::format("{} numbers clamped to {:.6g}", numbers.masks, most));
    if (numbers.vanished > 0) context.note(name, fmt::format("{} numbers became 0", numbers.vanished));
  }

  DType type_;
  bool weights_only_;
  std::int64_t min_elements_;
  std::vector<std::string> keep_;
  std::map<std::string, double> largest_;  // on data, by value of the main graph
  std::map<const Value*, Range> ranges_;
  std::map<std::pair<const Graph*, const Value*>, Value*> halves_;
};

Result<const Range*> ConvertFloat16::range(const Value& value) {
  const auto found = ranges_.find(&value);
  if (found != ranges_.end()) return &found->second;
  auto made = range_of(*constant(&value), type_);
  if (!made) return fail(made.error().in(fmt::format("weight '{}'", value.name())));
  return &(ranges_[&value] = *made);
}

// Largest magnitudes of what the nodes of the main graph make on data, masks and infinities aside.
Status ConvertFloat16::see_results(const Graph& graph, PassContext& context) {
  ExecutorOptions options;
  for (const Node* node : graph.nodes()) {
    for (const Value* output : node->outputs()) {
      if (output != nullptr && output->dtype() == DType::kFloat32 && constant(output) == nullptr) {
        options.taps.push_back(output->name());
      }
    }
  }
  OF_ASSIGN(const auto executor, Executor::create(context.model(), std::move(options)));
  for (const Feeds& feeds : context.calibration->batches) {
    const auto run = executor->run(feeds, [&](const Value& value, const Datum& datum) -> Status {
      if (!datum.is_array() || datum.array.storage() != Storage::kFloat) return {};
      double& largest = largest_[value.name()];
      const float* data = datum.array.data<float>();
      for (std::int64_t i = 0; i < datum.array.size(); ++i) {
        const double size = std::fabs(static_cast<double>(data[i]));
        if (size <= kMask) largest = std::max(largest, size);
      }
      return {};
    });
    if (!run) return fail(run.error());
  }
  return {};
}

Result<bool> ConvertFloat16::store_weights(Graph& graph, PassContext& context) {
  bool changed = false;
  std::vector<Value*> values = graph.initializers();
  for (const Node* node : graph.nodes_of("Constant")) values.push_back(node->output());
  for (Value* value : values) {
    const Tensor* tensor = constant(value);
    if (tensor == nullptr || tensor->dtype() != DType::kFloat32 || tensor->size() < min_elements_) continue;
    if (value->uses().empty() || value->is_graph_output()) continue;
    OF_ASSIGN(const Range* numbers, range(*value));
    if (type_ == DType::kFloat16 && numbers->beyond + numbers->masks > 0) {
      context.skipped(value->name(), fmt::format("{} numbers beyond 65504", numbers->beyond + numbers->masks),
                      tensor->nbytes());
      continue;
    }
    if (const std::string why = digits_lost(*tensor, *numbers, type_); !why.empty()) {
      context.skipped(value->name(), why, tensor->nbytes());
      continue;
    }
    Value* stored = add_constant(graph, in_16_bits(*tensor, type_), value->name() + "_16");
    stored->set_type(Type::tensor(type_, tensor->dims()));
    const std::vector<Node*> nodes = graph.nodes();
    NodeSpec spec = cast_of(*stored, DType::kFloat32, "_float");
    Value* wide = graph.insert(std::move(spec), nodes.empty() ? nullptr : nodes.front())->output();
    say_lost(value->name(), *numbers, context);
    context.applied(value->name(), std::string(name(type_)), tensor->nbytes(), tensor->nbytes() / 2);
    graph.replace_all_uses(*value, *wide);
    erase_if_unused(graph, *value);
    changed = true;
  }
  return changed;
}

// ONNX Runtime 1.32 ends with a fault while it loads a float16 MatMul of weights behind a Transpose, with a
// LayerNormalization or Cast somewhere before it. With the Transpose in float32 it does not.
bool feeds_weights(const Node& transpose) {
  const auto& uses = transpose.output()->uses();
  return std::any_of(uses.begin(), uses.end(), [](const Use& use) {
    if (use.node == nullptr || use.index != 0) return false;
    if (use.node->is("Identity")) return feeds_weights(*use.node);
    return use.node->is("MatMul") && constant(use.node->input(1)) != nullptr;
  });
}

// Are its constants weights? What they hold beyond 65504 is no mask: masks are added, or chosen by Where.
bool has_weights(const Node& node) {
  static constexpr std::string_view kWeighted[] = {"Conv",   "ConvTranspose", "Gemm", "LayerNormalization",
                                                   "MatMul", "PRelu"};
  return std::any_of(std::begin(kWeighted), std::end(kWeighted), [&](std::string_view op) { return node.is(op); });
}

// What keeps a node in float32; empty: nothing.
Result<std::string> ConvertFloat16::refusal(const Node& node) {
  if (!node.domain().empty() || !kHalf.contains(node.op_type())) {
    return fmt::format("{} stays in float32", node.op_type());
  }
  if (kept(node)) return std::string("kept by name");
  if (node.is("Transpose") && feeds_weights(node)) {
    return std::string("in front of a product: ONNX Runtime 1.32 does not load it in float16");
  }
  bool floats = false;
  for (const Value* input : node.inputs()) {
    if (input == nullptr) continue;
    if (input->dtype() == DType::kUndefined) return fmt::format("the type of '{}' is unknown", input->name());
    if (input->dtype() != DType::kFloat32) continue;
    floats = true;
    if (constant(input) == nullptr) {
      if (const std::string why = too_large(*input); !why.empty()) return why;
      continue;
    }
    OF_ASSIGN(const Range* numbers, range(*input));
    const std::int64_t beyond = numbers->beyond + (has_weights(node) ? numbers->masks : 0);
    if (beyond > 0) return fmt::format("'{}' has {} numbers beyond 65504", input->name(), beyond);
    if (const std::string why = digits_lost(*constant(input), *numbers, type_); !why.empty()) {
      return fmt::format("'{}': {}", input->name(), why);
    }
  }
  for (const Value* output : node.outputs()) {
    if (output == nullptr) continue;
    if (output->dtype() == DType::kUndefined) return std::string("an output's type is unknown");
    if (const std::string why = too_large(*output); !why.empty()) return why;
  }
  return std::string(floats ? "" : "no operand is float32");
}

// `value` in float16, as a node of `graph` reads it.
Value* ConvertFloat16::in_half(Graph& graph, Node& node, Value& value, PassContext& context) {
  Value*& made = halves_[{constant(&value) != nullptr ? value.graph() : &graph, &value}];
  if (made != nullptr) return made;
  if (const Tensor* tensor = constant(&value)) {
    made = add_constant(*value.graph(), in_16_bits(*tensor, type_), value.name() + "_16");
    say_lost(value.name(), ranges_[&value], context);
    context.applied(value.name(), "float16", tensor->nbytes(), tensor->nbytes() / 2);
    return made;
  }
  return made = graph.insert(cast_of(value, type_, "_half"), &node)->output();
}

// Readers outside `half` get a float32 copy of a value that became float16; a public name goes with it.
void ConvertFloat16::give_back(Graph& graph, Value& value, const std::set<const Node*>& half) {
  std::vector<Use> inside;
  bool outside = false;
  for (const Use& use : value.uses()) {
    const bool stays = use.node != nullptr && half.contains(use.node);
    if (stays) inside.push_back(use);
    outside = outside || !stays;
  }
  if (!outside) return;
  const std::vector<Node*> nodes = graph.nodes();
  const auto at = std::find(nodes.begin(), nodes.end(), value.producer());
  const Node* next = at + 1 == nodes.end() ? nullptr : *(at + 1);
  Node* cast = graph.insert(cast_of(value, DType::kFloat32, "_float"), next);
  const Type type = value.type();
  graph.replace_all_uses(value, *cast->output());
  value.set_type(type);
  cast->output()->set_type(with_dtype(type, DType::kFloat32));  // a public name brings its declaration along
  graph.set_input(*cast, 0, &value);
  for (const Use& use : inside) graph.set_input(*use.node, static_cast<std::size_t>(use.index), &value);
}

Result<bool> ConvertFloat16::convert(Graph& graph, PassContext& context) {
  std::vector<Node*> chosen;
  std::set<const Node*> half;
  const std::vector<Node*> nodes = graph.nodes();
  const std::map<const Node*, std::string> chains = statistics_chains(nodes);
  for (Node* node : nodes) {
    const bool floats = std::any_of(node->outputs().begin(), node->outputs().end(),
                                    [](const Value* v) { return v != nullptr && v->dtype() == DType::kFloat32; });
    if (!floats || node->is("Constant") || node->is("Cast")) continue;
    OF_ASSIGN(std::string why, refusal(*node));
    if (const auto chain = chains.find(node); why.empty() && chain != chains.end()) why = chain->second;
    if (!why.empty()) {
      context.skipped(node->label(), why);
      continue;
    }
    chosen.push_back(node);
    half.insert(node);
  }
  for (Node* node : chosen) {
    for (std::size_t i = 0; i < node->inputs().size(); ++i) {
      Value* input = node->input(i);
      if (input == nullptr || input->dtype() != DType::kFloat32) continue;
      graph.set_input(*node, i, in_half(graph, *node, *input, context));
      if (constant(input) != nullptr) erase_if_unused(*input->graph(), *input);
    }
    for (Value* output : node->outputs()) {
      if (output != nullptr && output->dtype() == DType::kFloat32) output->set_type(with_dtype(output->type(), type_));
    }
  }
  for (Node* node : chosen) {
    for (Value* output : node->outputs()) {
      if (output != nullptr && output->dtype() == type_) give_back(graph, *output, half);
    }
  }
  return !chosen.empty();
}

}  // namespace

std::unique_ptr<Pass> make_convert_float16(const PassOptions& options) {
  return std::make_unique<ConvertFloat16>(options);
}

}  // namespace onnxfold
