// Everything in blocks of integers with power-of-two scales, functions as tables (BCT, blockwise compression of
// transformers without retraining, arXiv 2304.01483; the number format is ours).
//
//   constant           => codes (int4, int8) and exponents (int8) -> Pow -> DequantizeLinear
//   intermediate value => QuantizeLinear -> DequantizeLinear, exponents by block of channels from data
//   GELU, SiLU, Tanh.. => table of codes behind Gather;  Softmax, LayerNorm, RMSNorm => sums of codes and tables
//
// Only standard operators (opset 21): any runtime reproduces the numbers, and exec/integer computes the same with
// integers alone. Values are code * 2^exponent throughout, so both agree to the bit while sums stay below 2^24 steps.
// Without data only constants are rounded. Subgraph bodies keep their arithmetic. Lossy.
#include <fmt/format.h>

#include <algorithm>

#include "formats/onnx/schema.h"
#include "ir/match.h"
#include "passes/quantize/bct/constant_blocks.h"
#include "passes/quantize/bct/intermediates.h"
#include "passes/quantize/bct/tables.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr double kMostSquares = 1e30;    // of a row; more is no range that was meant
constexpr double kSquaresHeadroom = 64;  // for rows that the data do not show
constexpr std::int64_t kOpset = 21;      // blocked DequantizeLinear, int4, int16

struct BctOptions {
  ShiftFormat weights, tables, parameters;  // bits 0: in float
  GridOptions grid;                         // bits 0: intermediate results stay in float
  int softmax_bits = 10, probability_bits = 16, norm_bits = 8;
  std::vector<std::string> exclude;
};

struct Totals {
  std::int64_t numbers = 0, bytes = 0, blocks = 0, left = 0;
};

class Bct final : public Pass {
 public:
  explicit Bct(BctOptions options) : options_(std::move(options)) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    const bool main = graph.parent() == nullptr;
    if (main && graph.opset() < kOpset) {
      PassContext unheard(context.model(), "");
      if (find_blocked_constants(graph, unheard).empty()) return false;
      OF_TRY(convert_opset(context.model(), kOpset));
      OF_TRY(infer_shapes(context.model()));
      raised_ = true;
    }
    if (graph.opset() < kOpset) return false;
    const bool with_data = main && context.calibration != nullptr && !context.calibration->batches.empty();
    const bool rounds = with_data && options_.grid.bits > 0;
    if (rounds) {
      sites_ = find_intermediates(graph);
      OF_ASSIGN(ranges_, see_intermediates(context.model(), *context.calibration, sites_, options_.grid));
    } else if (main && options_.grid.bits > 0) {
      context.note("", "intermediate results and functions stay in float: their ranges need --calibration data");
    }
    BctWriter writer(graph);
    OF_ASSIGN(bool changed, store_constants(writer, context));
    changed = changed || (main && raised_);
    if (!rounds) return changed;
    replace_norms(writer, context);
    replace_softmaxes(writer, context);
    OF_TRY(round_values(writer, context));
    report_floats(graph, context);
    context.note(
        "model",
        "warning: slow with ONNX Runtime: every rounding is an operator of its own; int8-static is the fast form");
    context.note("", fmt::format("{} intermediate values rounded to {} bits, {} bytes of scales", rounded_,
                                 options_.grid.bits, writer.scale_bytes()));
    return true;
  }

 private:
  const ShiftFormat& format_of(ConstantRole role) const {
    return role == ConstantRole::kWeight  ? options_.weights
           : role == ConstantRole::kTable ? options_.tables
                                          : options_.parameters;
  }

  bool excluded(const std::string& name) const {
    return std::any_of(options_.exclude.begin(), options_.exclude.end(),
                       [&](const std::string& pattern) { return glob_match(pattern, name); });
  }

  Result<bool> store_constants(BctWriter& writer, PassContext& context) {
    Totals totals;
    bool changed = false;
    for (const BlockedConstant& constant : find_blocked_constants(writer.graph(), context)) {
      const ShiftFormat& format = format_of(constant.role);
      const Tensor tensor = *constant.value->constant();
      const std::string name = constant.value->name();
      if (format.bits == 0 || excluded(name)) {
        context.skipped(name, format.bits == 0 ? "stays in float: 0 bits are asked for" : "excluded by name",
                        tensor.nbytes());
        continue;
      }
      const Value* old = constant.value;
      auto stored = store_in_blocks(writer, constant, format);
      if (!stored) return fail(stored.error().in(fmt::format("'{}'", name)));
      for (Norm& norm : sites_.norms) {
        if (norm.gain == old) norm.gain = stored->value;
        if (norm.bias == old) norm.bias = stored->value;
      }
      changed = true;
      const bool coded = stored->bytes < tensor.nbytes();
      context.applied(name,
                      coded ? fmt::format("{} bits in blocks of {}", format.bits, format.block)
                            : "values of the grid, stored as float32: smaller than the nodes that would decode",
                      tensor.nbytes(), stored->bytes);
      totals.numbers += tensor.size();
      totals.bytes += stored->bytes;
    }
    if (totals.numbers > 0) {
      const double bits = 8.0 * static_cast<double>(totals.bytes) / static_cast<double>(totals.numbers);
      context.note("",
                   fmt::format("{} constant numbers in {} bytes: {:.4f} bits each, {:.3f} times smaller than float32",
                               totals.numbers, totals.bytes, bits, 32 / bits));
    }
    return changed;
  }

  // Puts `made` in the place of `old`, whose makers go. False when the public name cannot move.
  bool replace(Graph& graph, Value& old, Value& made) {
    if (!graph.can_replace(old, made)) return false;
    moved_[&old] = &made;
    graph.replace_all_uses(old, made);
    erase_if_unused(graph, old);
    return true;
  }

  void replace_norms(BctWriter& writer, PassContext& context) {
    NormFormat format{options_.norm_bits, options_.grid.block, 1};
    for (const auto& [unused, ranges] : ranges_.norms) {
      if (ranges.sum_squares < kMostSquares)
        format.most_squares = std::max(format.most_squares, kSquaresHeadroom * ranges.sum_squares);
    }
    for (const Norm& norm : sites_.norms) {
      const std::string label = norm.last()->label();
      if (options_.norm_bits == 0 || excluded(label)) {
        context.skipped(label, options_.norm_bits == 0 ? "norm stays in float: norm-bits=0" : "excluded by name");
        continue;
      }
      const NormRanges& ranges = ranges_.norms.at(norm.input);
      if (!(ranges.sum_squares < kMostSquares) || ranges.sum_squares == 0) {
        context.skipped(label, "norm stays in float: no finite range of its input was seen");
        continue;
      }
      writer.place(norm.last(), norm.output->name());
      Norm live = norm;  // whose input may be what another norm gave
      if (const auto moved = moved_.find(norm.input); moved != moved_.end()) live.input = moved->second;
      Value* made = emit_norm_table(writer, live, ranges, format);
      if (replace(writer.graph(), *norm.output, *made))
        context.applied(label, "norm: sums of codes and a table of 1/sqrt");
    }
  }

  void replace_softmaxes(BctWriter& writer, PassContext& context) {
    for (const SoftmaxSite& site : sites_.softmaxes) {
      const std::string label = site.node->label();
      if (options_.softmax_bits == 0 || excluded(label)) {
        context.skipped(label,
                        options_.softmax_bits == 0 ? "softmax stays in float: softmax-bits=0" : "excluded by name");
        continue;
      }
      Value* old = site.node->output();
      const bool read =
          std::any_of(old->uses().begin(), old->uses().end(), [](const Use& u) { return u.node != nullptr; });
      writer.place(site.node, old->name());
      Value* made = emit_softmax_table(writer, site, options_.softmax_bits);
      if (read) {
        const Grid grid{options_.probability_bits, -1, {static_cast<std::int8_t>(1 - options_.probability_bits)}};
        made = writer.round(made, grid);
        ++rounded_;
      }
      if (replace(writer.graph(), *old, *made)) context.applied(label, "softmax: table of exp");
    }
  }

  Status round_values(BctWriter& writer, PassContext& context) {
    std::map<const Value*, const FunctionSite*> functions;
    for (const FunctionSite& site : sites_.functions) functions[site.output] = &site;
    for (Value* value : sites_.rounded) {
      const auto grid = ranges_.grids.find(value);
      if (grid == ranges_.grids.end()) {
        context.skipped(value->name(), "stays in float: no finite range of one shape was seen");
        continue;
      }
      const auto site = functions.find(value);
      if (site != functions.end()) {
        OF_ASSIGN(const bool replaced, replace_function(writer, *site->second, grid->second, context));
        if (replaced) continue;
      }
      const auto moved = moved_.find(value);
      round_value(writer, moved == moved_.end() ? *value : *moved->second, *value, grid->second);
    }
    return {};
  }

  // Everything that reads `value` reads it rounded; an output of the graph stays as it is.
  void round_value(BctWriter& writer, Value& value, const Value& key, const Grid& grid) {
    Graph& graph = writer.graph();
    writer.place(node_after(graph, value), value.name());
    const std::vector<Use> uses(value.uses());
    Value* codes = writer.encode(&value, grid);
    Value* decoded = writer.decode(codes, grid, value.type());
    for (const Use& use : uses) {
      if (use.node != nullptr) graph.set_input(*use.node, static_cast<std::size_t>(use.index), decoded);
    }
    rounded_values_[&key] = {codes, decoded};
    ++rounded_;
  }

  static const Node* node_after(const Graph& graph, const Value& value) {
    const std::vector<Node*> nodes = graph.nodes();
    if (value.producer() == nullptr) {
      // In front of its first reader, behind the scales at the head of the graph.
      const auto reads = [&](const Node* node) {
        return !node->subgraphs().empty() ||
               std::find(node->inputs().begin(), node->inputs().end(), &value) != node->inputs().end();
      };
      const auto first = std::find_if(nodes.begin(), nodes.end(), reads);
      return first == nodes.end() ? nullptr : *first;
    }
    const auto at = std::find(nodes.begin(), nodes.end(), value.producer());
    return at + 1 == nodes.end() ? nullptr : *(at + 1);
  }

  // Value: was it replaced.
  Result<bool> replace_function(BctWriter& writer, const FunctionSite& site, const Grid& out, PassContext& context) {
    const std::string label = site.nodes.back()->label();
    const auto codes = rounded_values_.find(site.input);
    const auto in = ranges_.grids.find(site.input);
    std::string why;
    if (options_.grid.function_bits == 0) why = "function-bits=0";
    if (excluded(label)) why = "excluded by name";
    if (codes == rounded_values_.end() || in == ranges_.grids.end()) why = "its input is not rounded";
    if (why.empty() && in->second.bits > 8) why = "tables take 8 bits at most";
    if (why.empty() && in->second.exponents.size() > 1 && out.exponents.size() > 1 &&
        (in->second.exponents.size() != out.exponents.size() || in->second.axis != out.axis)) {
      why = "its input and its result have different channels";
    }
    if (!why.empty()) {
      context.skipped(label, "function stays in float: " + why);
      return false;
    }
    writer.place(site.nodes.back(), site.output->name());
    auto table = emit_function_table(writer, site, codes->second, in->second, out);
    if (!table && table.error().code == Code::kUnsupported) {
      context.skipped(label, "function stays in float: " + table.error().message);
      return false;
    }
    if (!table) return fail(std::move(table).error());
    Value* decoded = writer.decode(*table, out, site.output->type());
    Value* old = site.output;
    if (!replace(writer.graph(), *old, *decoded)) return false;
    rounded_values_[site.output] = {*table, decoded};
    ++rounded_;
    context.applied(label, "function: table of codes");
    return true;
  }

  // What computes with numbers and is none of the operators that integers carry out.
  static void report_floats(const Graph& graph, PassContext& context) {
    static constexpr std::string_view kIntegers[] = {
        "MatMul", "Gemm", "Conv", "Add",  "Sub",   "Mul", "ReduceSum",      "Sum",
        "Div",    "Max",  "Min",  "Clip", "Where", "Pow", "QuantizeLinear", "DequantizeLinear",
        "Cast"};
    for (const Node* node : graph.nodes()) {
      const Value* output = node->output();
      if (output == nullptr || !is_float(output->dtype()) || only_moves(*node)) continue;
      const bool known = node->domain().empty() &&
                         std::find(std::begin(kIntegers), std::end(kIntegers), node->op_type()) != std::end(kIntegers);
      if (!known)
        context.skipped(node->label(), fmt::format("{} stays in float: it has no integer form", node->op_type()));
    }
  }

  BctOptions options_;
  bool raised_ = false;
  IntermediateSites sites_;
  IntermediateRanges ranges_;
  std::map<const Value*, RoundedInput> rounded_values_;  // by what they were; looked up only
  std::map<const Value*, Value*> moved_;                 // replaced values; looked up only
  std::int64_t rounded_ = 0;
};

}  // namespace

std::unique_ptr<Pass> make_bct(const PassOptions& options) {
  const auto bits = [&](std::string_view name) { return static_cast<int>(options.integer(name)); };
  BctOptions made;
  const std::int64_t block = options.integer("block");
  const bool refine = options.flag("refine");
  made.weights = {bits("weight-bits"), block, refine};
  made.tables = {bits("embedding-bits"), block, refine};
  made.parameters = {bits("parameter-bits"), block, refine};
  made.grid = {
      bits("activation-bits"), options.integer("activation-block"), refine, bits("function-bits"), bits("stream-bits"),
      bits("result-bits")};
  made.softmax_bits = bits("softmax-bits");
  made.probability_bits = bits("probability-bits");
  made.norm_bits = bits("norm-bits");
  made.exclude = options.patterns("exclude");
  return std::make_unique<Bct>(std::move(made));
}

}  // namespace onnxfold
