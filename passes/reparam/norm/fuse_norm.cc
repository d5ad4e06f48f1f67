// ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add => LayerNormalization     opset 17
// Pow, ReduceMean, Add, Sqrt, Div, Mul                       => RMSNormalization       opset 23
// Reshape, InstanceNormalization, Reshape, Mul, Add          => GroupNormalization     opset 21
//
// In every spelling that analysis/structure/norm.h and group_norm_chain.h recognise: no inner value has another reader,
// the statistics are over the last axis (of groups of channels), gain and bias are constants of its width. Without gain
// the operator gets ones. float16 and bfloat16: the operators compute their statistics in float32 (stash_type 1), so
// the result is at least as exact as the chain's; a chain that casts to float32 and multiplies its gain there keeps its
// casts. double: stash_type 11, and an epsilon that no float32 holds is refused, as attributes are float32. Rounding.
#include <algorithm>

#include "analysis/structure/norm.h"
#include "passes/pass.h"
#include "passes/reparam/norm/group_norm_chain.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kOnnxDouble = 11;  // TensorProto.DataType

// What the single operator reads and in which type it works.
struct Plan {
  Value* input = nullptr;
  DType dtype = DType::kUndefined;  // of input, gain, bias and the operator's result
};

DType type_of(const Value* value) { return value == nullptr ? DType::kUndefined : value->dtype(); }

// The Cast in front of the chain that the match took in, or null.
Node* first_cast(const Norm& norm) {
  const auto found = std::find_if(norm.nodes.begin(), norm.nodes.end(),
                                  [&](const Node* node) { return node->is("Cast") && node->input(0) == norm.input; });
  return found == norm.nodes.end() ? nullptr : *found;
}

bool all_of_type(const Norm& norm, DType dtype) {
  return (norm.gain == nullptr || norm.gain->dtype() == dtype) && (norm.bias == nullptr || norm.bias->dtype() == dtype);
}

std::optional<Plan> plan(const Norm& norm) {
  const DType in = norm.input->dtype(), out = norm.output->dtype();
  Node* cast = first_cast(norm);
  const DType inner = cast == nullptr ? in : type_of(cast->output());
  const bool computes_as_operator = inner == in || inner == DType::kFloat32;
  if (is_float(in) && in == out && all_of_type(norm, in) && computes_as_operator) return Plan{norm.input, in};
  if (cast != nullptr && is_float(inner) && is_float(out) && all_of_type(norm, inner)) {
    return Plan{cast->output(), inner};
  }
  return {};
}

// Why a matched chain stays; empty when it can be fused.
std::string obstacle(const Norm& norm, const std::optional<Plan>& plan, std::int64_t opset) {
  const bool layer = norm.kind == Norm::Kind::kLayer;
  const std::int64_t since = layer ? 17 : 23;
  if (opset < since) {
    return std::string(layer ? "LayerNormalization" : "RMSNormalization") + " needs opset " + std::to_string(since) +
           ", the model has " + std::to_string(opset);
  }
  if (!plan) return "the element types of data, gain and bias do not go into one operator";
  if (norm.width == 0) return "the width of the last axis is not known";
  if (!(norm.epsilon >= 0)) return "its epsilon is negative";
  if (static_cast<double>(static_cast<float>(norm.epsilon)) != norm.epsilon) return "its epsilon is no float32 number";
  return {};
}

// A rank 1 constant: the norm's own, reshaped, or ones.
Value* vector_of(Graph& graph, const Value* value, const Norm& norm, DType dtype) {
  if (value == nullptr) {
    const std::vector<double> ones(static_cast<std::size_t>(norm.width), 1.0);
    const auto tensor = from_doubles(dtype, {norm.width}, ones);
    return tensor ? add_constant(graph, *tensor, norm.output->name() + "_gain") : nullptr;
  }
  if (value->constant()->rank() == 1) return const_cast<Value*>(value);
  return add_constant(graph, value->constant()->reshaped({norm.width}), value->name());
}

void rewrite(Graph& graph, const Norm& norm, const Plan& plan) {
  const bool layer = norm.kind == Norm::Kind::kLayer;
  Node* last = norm.output->producer();
  std::vector<Value*> inputs = {plan.input, vector_of(graph, norm.gain, norm, plan.dtype)};
  if (norm.bias != nullptr) inputs.push_back(vector_of(graph, norm.bias, norm, plan.dtype));
  std::vector<Attribute> attributes;
  attributes.emplace_back("axis", std::int64_t{-1});
  attributes.emplace_back("epsilon", static_cast<float>(norm.epsilon));
  if (plan.dtype == DType::kFloat64) attributes.emplace_back("stash_type", kOnnxDouble);
  Type type = norm.output->type();
  type.dtype = plan.dtype;
  Node* made = graph.insert({.op_type = layer ? "LayerNormalization" : "RMSNormalization",
                             .inputs = std::move(inputs),
                             .outputs = {{norm.output->name(), std::move(type)}},
                             .attributes = std::move(attributes),
                             .domain = "",
                             .name = last->name},
                            last);
  if (plan.dtype != norm.output->dtype()) {
    std::vector<Attribute> to;
    to.emplace_back("to", static_cast<std::int64_t>(norm.output->dtype()));
    made = graph.insert({.op_type = "Cast",
                         .inputs = {made->output()},
                         .outputs = {{norm.output->name(), norm.output->type()}},
                         .attributes = std::move(to),
                         .domain = "",
                         .name = ""},
                        last);
  }
  replace_and_erase(graph, *last, *made->output());
}

class FuseNorm final : public Pass {
 public:
  explicit FuseNorm(bool group_norm) : group_norm_(group_norm) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (node->erased()) continue;
      if (group_norm_ && node->is("InstanceNormalization")) {
        OF_ASSIGN(const bool fused, fuse_group(graph, *node, context));
        changed = changed || fused;
      } else if (node->is("ReduceMean")) {
        changed = fuse_chain(graph, *node, context) || changed;
      }
    }
    return changed;
  }

 private:
  static bool fuse_chain(Graph& graph, const Node& node, PassContext& context) {
    const std::optional<Norm> norm = norm_at(node);
    if (!norm || norm->fused) return false;
    const std::optional<Plan> planned = plan(*norm);
    const std::string why = obstacle(*norm, planned, graph.opset());
    if (!why.empty()) {
      context.skipped(node.label(), why);
      return false;
    }
    const std::string label = norm->output->producer()->label();
    rewrite(graph, *norm, *planned);
    context.applied(label, norm->kind == Norm::Kind::kLayer ? "LayerNormalization" : "RMSNormalization");
    return true;
  }

  static Result<bool> fuse_group(Graph& graph, Node& node, PassContext& context) {
    OF_ASSIGN(const std::optional<GroupNormChain> chain, group_norm_chain(node));
    if (!chain) return false;
    if (graph.opset() < 21) {
      context.skipped(node.label(),
                      "GroupNormalization needs opset 21, the model has " + std::to_string(graph.opset()));
      return false;
    }
    Node* last = chain->output->producer();
    Value* gain = add_constant(graph, chain->gain, chain->output->name() + "_gain");
    Value* bias = add_constant(graph, chain->bias, chain->output->name() + "_bias");
    std::vector<Attribute> attributes;
    attributes.emplace_back("epsilon", chain->epsilon);
    attributes.emplace_back("num_groups", chain->groups);
    if (chain->input->dtype() == DType::kFloat64) attributes.emplace_back("stash_type", kOnnxDouble);
    Node* made = graph.insert({.op_type = "GroupNormalization",
                               .inputs = {chain->input, gain, bias},
                               .outputs = {{chain->output->name(), chain->output->type()}},
                               .attributes = std::move(attributes),
                               .domain = "",
                               .name = node.name},
                              last);
    const std::string label = last->label();
    replace_and_erase(graph, *last, *made->output());
    context.applied(label, "GroupNormalization");
    return true;
  }

  bool group_norm_;
};

}  // namespace

std::unique_ptr<Pass> make_fuse_norm(const PassOptions& options) {
  return std::make_unique<FuseNorm>(options.flag("group-norm"));
}

}  // namespace onnxfold
