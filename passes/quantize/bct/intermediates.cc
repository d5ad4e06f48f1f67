#include "passes/quantize/bct/intermediates.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "analysis/structure/activation.h"
#include "analysis/structure/linear.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

bool named(const Node& node, std::initializer_list<std::string_view> names) {
  return std::any_of(names.begin(), names.end(), [&](std::string_view name) { return node.is(name); });
}

// Operators of one number that a table can stand for, besides those that activation.h knows.
bool function_operator(const Node& node) {
  if (node.domain() == "com.microsoft" && node.inputs().size() == 1) {
    return node.op_type() == "Gelu" || node.op_type() == "FastGelu" || node.op_type() == "QuickGelu";
  }
  // Not Exp, Log, Sqrt, Reciprocal: even steps of their input are no even steps of what matters.
  return named(node, {"Erf", "Sin", "Cos", "Atan", "Sigmoid", "Tanh", "Gelu", "Swish", "HardSwish", "Mish", "Softplus",
                      "Softsign", "Elu", "Selu", "Celu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu", "Asinh"});
}

// Operators whose results have their channels on axis 1 when they have more than two axes.
bool channels_first(const Node& node) {
  return named(node, {"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization",
                      "AveragePool", "GlobalAveragePool", "LRN", "Resize", "Upsample", "LpPool"});
}

bool reads_numbers(const Use& use) {
  return use.node != nullptr && !named(*use.node, {"Shape", "Size", "ArgMax", "ArgMin", "QuantizeLinear"});
}

class Finder {
 public:
  explicit Finder(const Graph& graph) : graph_(graph) {}

  IntermediateSites run() {
    find_carriers();
    find_norms_and_softmaxes();
    find_functions();
    find_accumulators();
    find_rounded();
    return std::move(sites_);
  }

 private:
  // Data, and what is computed from data; masks and positions are not.
  void find_carriers() {
    for (const Value* input : graph_.inputs()) {
      if (input->dtype() == DType::kFloat32 && input->initializer() == nullptr) carriers_.insert(input);
    }
    for (const Node* node : graph_.nodes()) {
      const auto& inputs = node->inputs();
      bool carries = std::any_of(inputs.begin(), inputs.end(), [&](const Value* v) { return carriers_.contains(v); });
      const Tensor* table = node->is("Gather") ? constant(node->input(0)) : nullptr;
      carries = carries || (table != nullptr && table->rank() > 1 && is_float(table->dtype()));
      for (const Value* output : node->outputs()) {
        if (carries && output != nullptr && output->dtype() == DType::kFloat32) carriers_.insert(output);
      }
    }
  }

  void take_function(Value* input, Value* output, const std::vector<Node*>& nodes) {
    if (!carriers_.contains(input) || !carriers_.contains(output)) return;
    for (const Node* node : nodes) {
      if (inner_.contains(node)) return;
    }
    for (const Node* node : nodes) {
      inner_.insert(node);
      for (const Value* value : node->outputs()) {
        if (value != output) hidden_.insert(value);
      }
    }
    sites_.functions.push_back({input, output, nodes});
    function_inputs_.insert(input);
  }

  void find_functions() {
    for (const ActivationMatch& match : find_activations(graph_)) {
      if (match.kind != ActivationMatch::Kind::kRelu) take_function(match.input, match.output, match.nodes);
    }
    for (Node* node : graph_.nodes()) {
      if (function_operator(*node)) take_function(node->input(0), node->output(), {node});
    }
  }

  void find_norms_and_softmaxes() {
    for (const Norm& norm : find_norms(graph_)) {
      if (!carriers_.contains(norm.input) || norm.width <= 1 || norm.skip != nullptr) continue;
      if (std::any_of(norm.nodes.begin(), norm.nodes.end(), [&](const Node* n) { return inner_.contains(n); }))
        continue;
      // Second outputs (mean, inverse deviation) have no place in a table.
      const Node& last = *norm.last();
      if (std::any_of(last.outputs().begin() + 1, last.outputs().end(),
                      [](const Value* v) { return v != nullptr && !v->uses().empty(); })) {
        continue;
      }
      for (const Node* node : norm.nodes) {
        inner_.insert(node);
        for (const Value* value : node->outputs()) {
          if (value != norm.output) hidden_.insert(value);
        }
      }
      sites_.norms.push_back(norm);
    }
    for (Node* node : graph_.nodes_of("Softmax")) {
      if (!carriers_.contains(node->input(0)) || node->opset() < 13) continue;
      sites_.softmaxes.push_back({node, node->attr_int("axis", -1)});
      inner_.insert(node);
      hide_scores(node->input(0));
    }
  }

  // Scores on their way into a Softmax stay accumulators: its table rounds their distance from the largest.
  void hide_scores(const Value* value) {
    if (value == nullptr || !carriers_.contains(value) || value->uses().size() != 1 || value->is_graph_output()) return;
    const Node* node = value->producer();
    if (node == nullptr || inner_.contains(node)) return;
    hidden_.insert(value);
    if (only_moves(*node) || named(*node, {"Add", "Sub", "Mul", "Div", "Where"})) {
      for (const Value* input : node->inputs()) hide_scores(input);
    }
  }

  // A product whose bias is added next.
  void find_accumulators() {
    for (const Linear& linear : find_linears(graph_)) {
      if (linear.bias_add != nullptr) hidden_.insert(linear.product->output());
    }
  }

  void find_rounded() {
    for (Value* input : graph_.inputs()) consider(input, nullptr);
    for (Node* node : graph_.nodes()) {
      if (node->is("DequantizeLinear")) continue;
      for (Value* output : node->outputs()) consider(output, node);
    }
  }

  void consider(Value* value, const Node* node) {
    if (value == nullptr || !carriers_.contains(value)) return;
    note_axis(value, node);
    if (hidden_.contains(value)) return;
    if (node != nullptr && only_moves(*node) && !function_inputs_.contains(value)) return;
    if (node != nullptr && node->is("Softmax") && inner_.contains(node)) return;  // rounded by its own site
    if (std::any_of(value->uses().begin(), value->uses().end(), reads_numbers)) sites_.rounded.push_back(value);
  }

  void note_axis(const Value* value, const Node* node) {
    if (value->rank().value_or(0) < 3) return;
    if (node == nullptr) {
      // Images: the first operator says where channels are.
      for (const Use& use : value->uses()) {
        if (use.node != nullptr && channels_first(*use.node)) sites_.axis[value] = 1 - *value->rank();
      }
      return;
    }
    bool first = channels_first(*node);
    if (!only_moves(*node) || named(*node, {"Identity", "Relu"})) {
      for (const Value* input : node->inputs()) {
        const auto found = sites_.axis.find(input);
        first = first || (found != sites_.axis.end() && input->rank() == value->rank());
      }
    }
    if (first) sites_.axis[value] = 1 - *value->rank();
  }

  const Graph& graph_;
  IntermediateSites sites_;
  std::set<const Value*> carriers_;         // looked up only
  std::set<const Value*> hidden_;           // looked up only
  std::set<const Value*> function_inputs_;  // looked up only
  std::set<const Node*> inner_;             // looked up only
};

// Channels of a value as [outer, channels, inner] of an array; one channel when the grid has one.
struct ChannelView {
  std::int64_t channels = 1, inner = 1;
};

ChannelView view_of(const Array& array, std::int64_t axis) {
  ChannelView view;
  const std::int64_t at = axis + array.rank();
  if (at < 0) return view;
  view.channels = array.dims()[static_cast<std::size_t>(at)];
  for (std::int64_t i = at + 1; i < array.rank(); ++i) view.inner *= array.dims()[static_cast<std::size_t>(i)];
  return view;
}

std::int64_t channels_of(const Value& value, std::int64_t axis) {
  const auto& shape = value.type().shape;
  if (!shape || static_cast<std::int64_t>(shape->size()) < -axis) return 1;
  const Dim& dim = (*shape)[shape->size() - static_cast<std::size_t>(-axis)];
  return dim.known() && *dim.value > 0 ? *dim.value : 1;
}

// ONNX Runtime 1.32 makes one operator of these and the roundings around them, which then refuses scales by channel.
bool one_scale(const Value& value) {
  const auto pools = [](const Node* node) {
    return node != nullptr && named(*node, {"GlobalAveragePool", "AveragePool", "LeakyRelu", "Sigmoid"});
  };
  // Right operands of products of stacked matrices: MatMulIntegerToFloat takes channels of plain matrices alone.
  const auto refused = [&](const Use& use) {
    return pools(use.node) || (use.node != nullptr && use.node->is("MatMul") && use.index == 1);
  };
  return pools(value.producer()) || std::any_of(value.uses().begin(), value.uses().end(), refused);
}

// What norms read, and what was added to give that: a few tokens have channels there that are far larger than all
// others.
std::set<const Value*> stream_of(const IntermediateSites& sites) {
  std::set<const Value*> stream;
  for (const Norm& norm : sites.norms) {
    stream.insert(norm.input);
    const Node* sum = norm.input->producer();
    if (sum == nullptr || !sum->is("Add")) continue;
    for (const Value* addend : sum->inputs()) {
      // What products read as well stays narrow.
      const auto& uses = addend->uses();
      const bool only_added = std::all_of(uses.begin(), uses.end(),
                                          [](const Use& use) { return use.node != nullptr && use.node->is("Add"); });
      if (only_added) stream.insert(addend);
    }
  }
  return stream;
}

// What one rounded value shows.
struct Seen {
  const Value* value = nullptr;
  std::int64_t axis = -1, channels = 1;
  int bits = 8;
  std::vector<double> largest;                // by channel
  std::vector<std::array<double, 3>> errors;  // by block: at the exponent, one and two below
  std::vector<std::int8_t> exponents;         // by channel
  bool finite = true;
  std::int64_t total = 0;

  int limit() const { return (1 << (bits - 1)) - 1; }
};

class Watcher {
 public:
  Watcher(const IntermediateSites& sites, const GridOptions& options) : options_(options) {
    std::set<const Value*> read_by_tables;
    std::set<const Value*> given;
    for (const FunctionSite& site : sites.functions) {
      read_by_tables.insert(site.input);
      given.insert(site.output);
    }
    for (const Norm& norm : sites.norms) given.insert(norm.output);
    const std::set<const Value*> stream = stream_of(sites);
    for (const Value* value : sites.rounded) {
      Seen seen;
      seen.value = value;
      const auto found = sites.axis.find(value);
      if (found != sites.axis.end()) seen.axis = found->second;
      seen.channels = one_scale(*value) ? 1 : channels_of(*value, seen.axis);
      const bool narrow = options.function_bits > 0 && read_by_tables.contains(value);
      seen.bits = narrow ? std::min(options.function_bits, options.bits) : options.bits;
      // Operators that runtimes fuse with the rounding around them take 8 bits only.
      if (!narrow && !one_scale(*value)) {
        if (stream.contains(value)) seen.bits = std::max(seen.bits, options.stream_bits);
        if (given.contains(value)) seen.bits = std::max(seen.bits, options.result_bits);
      }
      seen.largest.assign(static_cast<std::size_t>(seen.channels), 0);
      seen_[value->name()] = std::move(seen);
    }
    for (const Norm& norm : sites.norms) {
      NormRanges& ranges = norms_[norm.input->name()];
      ranges.deviation.assign(static_cast<std::size_t>(norm.width), 0);
      norm_kinds_[norm.input->name()] = norm.kind;
    }
  }

  std::vector<std::string> names() const {
    std::set<std::string> all;
    for (const auto& [name, unused] : seen_) all.insert(name);
    for (const auto& [name, unused] : norms_) all.insert(name);
    return {all.begin(), all.end()};
  }

  void look(const std::string& name, const Array& array) {
    if (array.storage() != Storage::kFloat) return;
    if (const auto found = seen_.find(name); found != seen_.end()) widen(found->second, array);
    if (const auto found = norms_.find(name); found != norms_.end())
      widen_norm(found->second, norm_kinds_.at(name), array);
  }

  // After the first run: exponents that clip nothing.
  void settle() {
    for (auto& [name, seen] : seen_) {
      seen.exponents = block_exponents(seen.largest, options_.block, seen.limit());
      seen.errors.assign((seen.largest.size() + block() - 1) / block(), {});
    }
  }

  // Second run: what finer exponents would cost.
  void weigh(const std::string& name, const Array& array) {
    const auto found = seen_.find(name);
    if (found == seen_.end() || array.storage() != Storage::kFloat) return;
    Seen& seen = found->second;
    const ChannelView view = seen.channels > 1 ? view_of(array, seen.axis) : ChannelView{1, array.size()};
    if (view.channels != seen.channels) return;
    const float* data = array.data<float>();
    const auto block = static_cast<std::int64_t>(this->block());
    for (std::int64_t i = 0; i < array.size();) {
      const std::int64_t channel = i / view.inner % view.channels;
      // As far as one block goes without a gap.
      const std::int64_t rest =
          view.inner > 1 ? view.inner - i % view.inner : std::min(block - channel % block, view.channels - channel);
      const auto at = static_cast<std::size_t>(channel / block);
      for (int finer = 0; finer < 3; ++finer) {
        const int exponent = seen.exponents[static_cast<std::size_t>(channel)] - finer;
        seen.errors[at][static_cast<std::size_t>(finer)] += run_error(data + i, rest, exponent, seen.limit());
      }
      i += rest;
    }
  }

  void refine() {
    for (auto& [name, seen] : seen_) {
      for (std::size_t channel = 0; channel < seen.exponents.size(); ++channel) {
        const auto& errors = seen.errors[channel / block()];
        const auto best = std::min_element(errors.begin(), errors.end()) - errors.begin();
        seen.exponents[channel] =
            static_cast<std::int8_t>(std::max<std::int64_t>(seen.exponents[channel] - best, -126));
      }
    }
  }

  IntermediateRanges result(const IntermediateSites& sites) {
    IntermediateRanges out;
    for (auto& [name, seen] : seen_) {
      if (!seen.finite || seen.total == 0) continue;
      out.grids[seen.value] = {seen.bits, seen.axis, seen.exponents};
    }
    for (const Norm& norm : sites.norms) out.norms[norm.input] = norms_.at(norm.input->name());
    return out;
  }

 private:
  static double run_error(const float* data, std::int64_t count, int exponent, int limit) {
    const double step = std::ldexp(1.0, exponent), inverse = std::ldexp(1.0, -exponent), most = limit;
    double error = 0;
    for (std::int64_t i = 0; i < count; ++i) error += shift_error(static_cast<double>(data[i]), step, inverse, most);
    return error;
  }

  std::size_t block() const { return static_cast<std::size_t>(options_.block); }

  static void widen(Seen& seen, const Array& array) {
    const ChannelView view = seen.channels > 1 ? view_of(array, seen.axis) : ChannelView{1, array.size()};
    if (view.channels != seen.channels) {
      seen.finite = false;  // the declared shape is not what came
      return;
    }
    const float* data = array.data<float>();
    for (std::int64_t begin = 0; begin < array.size(); begin += view.inner) {
      double& most = seen.largest[static_cast<std::size_t>(begin / view.inner % view.channels)];
      for (std::int64_t i = begin; i < begin + view.inner; ++i) {
        const auto x = std::fabs(static_cast<double>(data[i]));
        if (!(x <= 1e30)) seen.finite = false;
        if (x > most) most = x;
      }
    }
    seen.total += array.size();
  }

  static void widen_norm(NormRanges& ranges, Norm::Kind kind, const Array& array) {
    const auto width = static_cast<std::int64_t>(ranges.deviation.size());
    if (array.rank() == 0 || array.dim(-1) != width) return;
    const float* data = array.data<float>();
    for (std::int64_t row = 0; row * width < array.size(); ++row) {
      const float* x = data + row * width;
      double sum = 0, squares = 0;
      for (std::int64_t c = 0; c < width; ++c) sum += static_cast<double>(x[c]);
      const double mean = kind == Norm::Kind::kLayer ? sum / static_cast<double>(width) : 0;
      for (std::int64_t c = 0; c < width; ++c) {
        const double deviation = static_cast<double>(x[c]) - mean;
        squares += deviation * deviation;
        double& most = ranges.deviation[static_cast<std::size_t>(c)];
        most = std::max(most, std::fabs(deviation));
      }
      ranges.sum = std::max(ranges.sum, std::fabs(sum));
      ranges.mean = std::max(ranges.mean, std::fabs(mean));
      ranges.sum_squares = std::max(ranges.sum_squares, squares);
    }
  }

  GridOptions options_;
  std::map<std::string, Seen> seen_;
  std::map<std::string, NormRanges> norms_;
  std::map<std::string, Norm::Kind> norm_kinds_;
};

}  // namespace

bool only_moves(const Node& node) {
  return named(node,
               {"Reshape",   "Transpose", "Squeeze", "Unsqueeze",     "Flatten",      "Identity",        "Slice",
                "Split",     "Concat",    "Expand",  "Tile",          "Gather",       "GatherElements",  "GatherND",
                "Dropout",   "Relu",      "MaxPool", "GlobalMaxPool", "DepthToSpace", "SpaceToDepth",    "ReduceMax",
                "ReduceMin", "Neg",       "Abs",     "Pad",           "Compress",     "ReverseSequence", "Constant"});
}

IntermediateSites find_intermediates(const Graph& graph) { return Finder(graph).run(); }

std::vector<std::int8_t> block_exponents(const std::vector<double>& largest, std::int64_t block, int limit) {
  std::vector<std::int8_t> exponents(largest.size());
  const auto step = static_cast<std::size_t>(block);
  for (std::size_t begin = 0; begin < largest.size(); begin += step) {
    const std::size_t end = std::min(begin + step, largest.size());
    const double most = *std::max_element(largest.begin() + static_cast<std::ptrdiff_t>(begin),
                                          largest.begin() + static_cast<std::ptrdiff_t>(end));
    const auto exponent = static_cast<std::int8_t>(std::isfinite(most) ? shift_exponent(most, limit) : 0);
    std::fill(exponents.begin() + static_cast<std::ptrdiff_t>(begin),
              exponents.begin() + static_cast<std::ptrdiff_t>(end), exponent);
  }
  return exponents;
}

Result<IntermediateRanges> see_intermediates(const Model& model, const Dataset& data, const IntermediateSites& sites,
                                             const GridOptions& options) {
  Watcher watcher(sites, options);
  ExecutorOptions tapping;
  tapping.taps = watcher.names();
  OF_ASSIGN(const auto executor, Executor::create(model, tapping));
  const auto see = [&](void (Watcher::*method)(const std::string&, const Array&)) -> Status {
    for (const Feeds& feeds : data.batches) {
      const auto sink = [&](const Value& value, const Datum& datum) -> Status {
        if (datum.is_array()) (watcher.*method)(value.name(), datum.array);
        return {};
      };
      OF_TRY(executor->run(feeds, sink));
    }
    return {};
  };
  OF_TRY(see(&Watcher::look));
  watcher.settle();
  if (options.refine) {
    OF_TRY(see(&Watcher::weigh));
    watcher.refine();
  }
  return watcher.result(sites);
}

}  // namespace onnxfold
