// FusedMatMul, FusedGemm, FusedConv of ONNX Runtime => Transpose, MatMul, Mul; Gemm or Conv, Add and the activation
//
// FusedMatMul: needs the rank of what it transposes; transBatchA and transBatchB stay. Activations: Relu, Tanh,
// Sigmoid, LeakyRelu, HardSigmoid, Clip. Rounding.
#include "passes/pass.h"
#include "passes/reparam/chain_builder.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::string_view kMicrosoft = "com.microsoft";

// The permutation that swaps the last two axes; empty when none is wanted. Nullopt when the rank is not known.
std::optional<std::vector<std::int64_t>> permutation(const Value& value, bool wanted) {
  std::vector<std::int64_t> order;
  if (!wanted) return order;
  if (!value.rank()) return std::nullopt;
  for (std::int64_t i = 0; i < *value.rank(); ++i) order.push_back(i);
  if (order.size() < 2) return std::vector<std::int64_t>();
  std::swap(order[order.size() - 1], order[order.size() - 2]);
  return order;
}

Value* transposed(ChainBuilder& build, Value* value, const std::vector<std::int64_t>& order) {
  if (order.empty()) return value;
  Type type = value->type();
  for (std::size_t i = 0; i < order.size(); ++i) {
    (*type.shape)[i] = (*value->type().shape)[static_cast<std::size_t>(order[i])];
  }
  std::vector<Attribute> attributes;
  attributes.emplace_back("perm", order);
  return build.add("Transpose", {value}, std::move(type), std::move(attributes));
}

struct Activation {
  std::string op_type;  // empty: none
  std::vector<std::pair<std::string, float>> parameters;
};

// Names of the parameters in the order of FusedConv's activation_params and of FusedGemm's attributes.
std::optional<Activation> activation_of(const Node& node) {
  Activation activation{node.attr_string("activation", ""), {}};
  std::vector<float> given = node.attr_floats("activation_params").value_or(std::vector<float>());
  for (const char* name : {"activation_alpha", "activation_beta"}) {
    if (node.attribute(name) != nullptr) given.push_back(node.attr_float(name, 0));
  }
  const std::string& op = activation.op_type;
  std::vector<std::string> names;
  if (op == "LeakyRelu") names = {"alpha"};
  if (op == "HardSigmoid") names = {"alpha", "beta"};
  if (op == "Clip") names = {"min", "max"};
  const bool plain = op.empty() || op == "Relu" || op == "Tanh" || op == "Sigmoid";
  if (!plain && (names.empty() || given.size() < names.size())) return {};
  for (std::size_t i = 0; i < names.size(); ++i) activation.parameters.emplace_back(names[i], given[i]);
  return activation;
}

Value* activated(ChainBuilder& build, Value* x, const Activation& activation) {
  if (activation.op_type.empty()) return x;
  std::vector<Value*> inputs = {x};
  std::vector<Attribute> attributes;
  for (const auto& parameter : activation.parameters) {
    if (activation.op_type == "Clip" && build.opset() >= 11) {
      inputs.push_back(build.scalar(static_cast<double>(parameter.second), x->dtype()));
    } else {
      attributes.emplace_back(parameter.first, parameter.second);
    }
  }
  return build.add(activation.op_type, std::move(inputs), x->type(), std::move(attributes));
}

class ExpandLinear final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      const bool product = node->is("FusedMatMul", kMicrosoft);
      if (!product && !node->is("FusedGemm", kMicrosoft) && !node->is("FusedConv", kMicrosoft)) continue;
      const std::string label = node->label(), op = node->op_type();
      const std::string why = product ? expand_product(graph, *node) : expand_activated(graph, *node);
      if (!why.empty()) {
        context.skipped(label, why);
        continue;
      }
      context.applied(label, op);
      changed = true;
    }
    return changed;
  }

 private:
  // Why not; empty when it was expanded.
  static std::string expand_product(Graph& graph, Node& node) {
    Value *a = node.input(0), *b = node.input(1);
    if (node.attr_int("transBatchA", 0) != 0 || node.attr_int("transBatchB", 0) != 0) {
      return "it transposes batch axes";
    }
    const auto left = permutation(*a, node.attr_int("transA", 0) != 0);
    const auto right = permutation(*b, node.attr_int("transB", 0) != 0);
    if (!left || !right) return "the rank of what it transposes is not known";
    ChainBuilder build(graph, node);
    Value* y = build.add("MatMul", {transposed(build, a, *left), transposed(build, b, *right)}, node.output()->type());
    const float alpha = node.attr_float("alpha", 1);
    if (alpha != 1) y = build.map("Mul", {y, build.scalar(static_cast<double>(alpha), a->dtype())});
    replace_and_erase(graph, node, *y);
    return {};
  }

  static std::string expand_activated(Graph& graph, Node& node) {
    const auto activation = activation_of(node);
    if (!activation) return "its activation '" + node.attr_string("activation", "") + "' is not known";
    const bool conv = node.op_type() == "FusedConv";
    std::vector<Value*> inputs = node.inputs();
    if (inputs.size() > 3) inputs.resize(3);
    Value* addend = conv ? node.input(3) : nullptr;
    ChainBuilder build(graph, node);
    std::vector<Attribute> attributes;
    for (const Attribute& attribute : node.attributes()) {
      if (attribute.name.starts_with("activation")) continue;
      attributes.push_back(attribute.copy());
    }
    Value* y = build.add(conv ? "Conv" : "Gemm", std::move(inputs), node.output()->type(), std::move(attributes));
    if (addend != nullptr) y = build.map("Add", {y, addend});
    replace_and_erase(graph, node, *activated(build, y, *activation));
    return {};
  }
};

}  // namespace

std::unique_ptr<Pass> make_expand_linear(const PassOptions&) { return std::make_unique<ExpandLinear>(); }

}  // namespace onnxfold
