// f(constants) => constant.
//
// Every node of the standard domain whose inputs are all constant is run by the executor in float64 and its result,
// rounded once, becomes an initializer (a Constant node where it is a graph output). Left alone: operators that are not
// deterministic or hold subgraphs, DequantizeLinear and its kin (folding would undo a compression), and results more
// than max-growth bytes larger than their inputs. What the executor cannot run is left with a remark. Rounding: the
// folded value has passed through its own element type, as it would at run time.
#include <fmt/format.h>

#include <limits>
#include <map>

#include "exec/executor.h"
#include "formats/onnx/schema.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool keeps_compression(const Node& node) {
  return node.is("DequantizeLinear") || node.is("QuantizeLinear") || node.is("DynamicQuantizeLinear");
}

// Bytes of all outputs as far as types tell; nullopt when a type is not static.
std::optional<std::int64_t> result_bytes(const Node& node) {
  if (node.is("ConstantOfShape")) {  // its type lags behind when the shape has just been folded
    const auto dims = int_constants(node.input(0));
    if (!dims) return std::nullopt;
    std::int64_t count = 8;
    for (const std::int64_t dim : *dims) {
      if (dim < 0 || __builtin_mul_overflow(count, dim, &count)) return std::numeric_limits<std::int64_t>::max();
    }
    return count;
  }
  std::int64_t total = 0;
  for (const Value* output : node.outputs()) {
    if (output == nullptr) continue;
    const auto dims = output->static_dims();
    if (!dims || output->dtype() == DType::kUndefined) return std::nullopt;
    std::int64_t count = 1;
    for (const std::int64_t dim : *dims) {
      if (__builtin_mul_overflow(count, dim, &count)) return std::numeric_limits<std::int64_t>::max();
    }
    const auto bytes = packed_bytes(output->dtype(), count);
    if (!bytes || __builtin_add_overflow(total, *bytes, &total)) return std::numeric_limits<std::int64_t>::max();
  }
  return total;
}

// Operators whose result may be larger than their inputs by any factor: without a static type they are not run.
bool may_explode(const Node& node) {
  for (const std::string_view op : {"Expand", "Tile", "Range", "Resize", "Upsample", "OneHot", "Pad", "EyeLike",
                                    "MatMul", "Gemm", "Einsum", "Conv"}) {
    if (node.is(op)) return true;
  }
  return false;
}

class FoldConstants final : public Pass {
 public:
  explicit FoldConstants(const PassOptions& options) : max_growth_(options.integer("max-growth")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (node->erased() || !foldable(*node)) continue;
      if (!fits(*node, context)) continue;
      if (!supports(*node)) {
        context.skipped(node->label(), "the executor does not run " + node->op_type());
        continue;
      }
      auto results = evaluate(*node);
      if (!results) {
        context.skipped(node->label(), "cannot be folded: " + results.error().message);
        continue;
      }
      if (!replace(graph, *node, *results)) continue;
      changed = true;
    }
    return changed;
  }

 private:
  bool foldable(const Node& node) {
    if (!node.domain().empty() || node.is("Constant") || node.inputs().empty() || keeps_compression(node)) return false;
    bool any = false;
    for (const Value* input : node.inputs()) {
      if (input == nullptr) continue;
      if (input->constant() == nullptr) return false;
      any = true;
    }
    if (!any || !node.subgraphs().empty()) return false;
    return deterministic(node);
  }

  bool deterministic(const Node& node) {
    const auto [found, fresh] = deterministic_.try_emplace(node.op_type(), true);
    if (fresh) found->second = operator_info("", node.op_type(), node.opset()).deterministic;
    return found->second;
  }

  bool fits(const Node& node, PassContext& context) const {
    std::int64_t inputs = 0;
    for (const Value* input : node.inputs()) inputs += input == nullptr ? 0 : input->constant()->nbytes();
    const std::optional<std::int64_t> result = result_bytes(node);
    if (!result && may_explode(node)) return false;
    if (!result || *result - inputs <= max_growth_) return true;
    context.skipped(node.label(),
                    fmt::format("folding would add {} bytes, more than max-growth {}", *result - inputs, max_growth_));
    return false;
  }

  static Result<std::vector<Tensor>> evaluate(const Node& node) {
    std::vector<Datum> inputs;
    for (const Value* input : node.inputs()) {
      inputs.emplace_back();
      if (input == nullptr) continue;
      OF_ASSIGN(inputs.back(), to_array(*input->constant(), Precision::kFloat64));
    }
    OF_ASSIGN(const std::vector<Datum> outputs, run_node(node, std::move(inputs), Precision::kFloat64));
    std::vector<Tensor> tensors;
    for (std::size_t i = 0; i < node.outputs().size(); ++i) {
      tensors.emplace_back();
      if (node.output(i) == nullptr) continue;
      if (i >= outputs.size() || !outputs[i].is_array()) {
        return fail(Code::kUnsupported, "the result is not a tensor");
      }
      OF_ASSIGN(tensors.back(), to_tensor(outputs[i].array));
    }
    return tensors;
  }

  static bool replace(Graph& graph, Node& node, const std::vector<Tensor>& results) {
    const std::vector<Value*> outputs = node.outputs();
    std::vector<std::pair<Value*, std::string>> renamed;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (outputs[i] == nullptr || outputs[i]->uses().empty()) continue;
      if (outputs[i]->is_graph_output()) {
        std::vector<Attribute> attributes;
        attributes.emplace_back("value", results[i]);
        Node* made = graph.insert({.op_type = "Constant",
                                   .inputs = {},
                                   .outputs = {{outputs[i]->name(), outputs[i]->type()}},
                                   .attributes = std::move(attributes),
                                   .domain = "",
                                   .name = node.name},
                                  &node);
        graph.replace_all_uses(*outputs[i], *made->output());
      } else {
        Value* made = add_constant(graph, results[i], outputs[i]->name());
        renamed.emplace_back(made, outputs[i]->name());
        graph.replace_all_uses(*outputs[i], *made);
      }
    }
    erase_with_dead_inputs(graph, node);
    for (const auto& [value, name] : renamed) graph.rename(*value, name);
    return true;
  }

  std::int64_t max_growth_;
  std::map<std::string, bool, std::less<>> deterministic_;
};

}  // namespace

std::unique_ptr<Pass> make_fold_constants(const PassOptions& options) {
  return std::make_unique<FoldConstants>(options);
}

}  // namespace onnxfold
