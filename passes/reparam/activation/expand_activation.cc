// Gelu, Swish, HardSwish, Mish, and of ONNX Runtime Gelu, BiasGelu, FastGelu, QuickGelu => the chain that older opsets
// have
//
// With only-contrib: ONNX Runtime's alone, and they become the standard operator where the model's opset has it (Gelu
// 20, Swish 24). Constants are written in the type of the data; float16 and bfloat16 are computed in float32, as the
// operators do. Needs opset 9 for Erf. Rounding.
#include <cmath>

#include "passes/pass.h"
#include "passes/reparam/chain_builder.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::string_view kMicrosoft = "com.microsoft";

enum class Formula { kGelu, kGeluTanh, kSwish, kHardSwish, kMish };

struct Spec {
  Formula formula;
  float alpha = 1;  // of Swish
  bool contrib = false;
  Value* bias = nullptr;
};

std::optional<Spec> spec_of(const Node& node) {
  if (node.is("Gelu")) {
    return Spec{node.attr_string("approximate", "none") == "tanh" ? Formula::kGeluTanh : Formula::kGelu};
  }
  if (node.is("Swish")) return Spec{Formula::kSwish, node.attr_float("alpha", 1)};
  if (node.is("HardSwish")) return Spec{Formula::kHardSwish};
  if (node.is("Mish")) return Spec{Formula::kMish};
  if (node.is("Gelu", kMicrosoft)) return Spec{Formula::kGelu, 1, true};
  if (node.is("BiasGelu", kMicrosoft)) return Spec{Formula::kGelu, 1, true, node.input(1)};
  if (node.is("FastGelu", kMicrosoft)) return Spec{Formula::kGeluTanh, 1, true, node.input(1)};
  if (node.is("QuickGelu", kMicrosoft)) return Spec{Formula::kSwish, node.attr_float("alpha", 1.702F), true};
  return {};
}

class Expansion {
 public:
  Expansion(Graph& graph, const Node& node) : build_(graph, node) {}

  // The standard operator of the formula; null when the opset has none.
  Value* standard(const Spec& spec, Value* x) {
    std::vector<Attribute> attributes;
    if (spec.formula == Formula::kSwish) {
      if (build_.opset() < 24) return nullptr;
      if (spec.alpha != 1) attributes.emplace_back("alpha", spec.alpha);
      return build_.add("Swish", {x}, x->type(), std::move(attributes));
    }
    if (build_.opset() < 20) return nullptr;
    if (spec.formula == Formula::kGeluTanh) attributes.emplace_back("approximate", std::string("tanh"));
    return build_.add("Gelu", {x}, x->type(), std::move(attributes));
  }

  Value* chain(const Spec& spec, Value* x) {
    const DType outer = x->dtype(), inner = outer == DType::kFloat64 ? outer : DType::kFloat32;
    Value* wide = build_.cast(x, inner);
    return build_.cast(in_type(spec, wide, inner), outer);
  }

  Value* add_bias(Value* x, Value* bias) { return build_.map("Add", {x, bias}); }

 private:
  Value* in_type(const Spec& spec, Value* x, DType dtype) {
    const auto number = [&](double value) { return build_.scalar(value, dtype); };
    switch (spec.formula) {
      case Formula::kGelu: {
        Value* erf = build_.map("Erf", {build_.map("Div", {x, number(std::sqrt(2.0))})});
        Value* product = build_.map("Mul", {x, build_.map("Add", {erf, number(1)})});
        return build_.map("Mul", {product, number(0.5)});
      }
      case Formula::kGeluTanh: {
        Value* cube = build_.map("Mul", {build_.map("Mul", {x, x}), x});
        Value* sum = build_.map("Add", {x, build_.map("Mul", {cube, number(0.044715)})});
        Value* tanh = build_.map("Tanh", {build_.map("Mul", {sum, number(std::sqrt(2 / M_PI))})});
        Value* product = build_.map("Mul", {x, build_.map("Add", {tanh, number(1)})});
        return build_.map("Mul", {product, number(0.5)});
      }
      case Formula::kSwish: {
        Value* scaled = spec.alpha == 1 ? x : build_.map("Mul", {x, number(static_cast<double>(spec.alpha))});
        return build_.map("Mul", {x, build_.map("Sigmoid", {scaled})});
      }
      case Formula::kHardSwish: {
        std::vector<Attribute> attributes;
        attributes.emplace_back("alpha", static_cast<float>(1.0 / 6));
        attributes.emplace_back("beta", 0.5F);
        return build_.map("Mul", {x, build_.add("HardSigmoid", {x}, x->type(), std::move(attributes))});
      }
      case Formula::kMish:
        return build_.map("Mul", {x, build_.map("Tanh", {build_.map("Softplus", {x})})});
    }
    return nullptr;
  }

  ChainBuilder build_;
};

class ExpandActivation final : public Pass {
 public:
  explicit ExpandActivation(bool only_contrib) : only_contrib_(only_contrib) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      const auto spec = spec_of(*node);
      if (!spec || (only_contrib_ && !spec->contrib)) continue;
      Value* x = node->input(0);
      if (x == nullptr || !is_float(x->dtype())) {
        context.skipped(node->label(), "its element type is not known to be a float");
        continue;
      }
      if (graph.opset() < 9) {
        context.skipped(node->label(), "its chain needs opset 9");
        continue;
      }
      Expansion expansion(graph, *node);
      if (spec->bias != nullptr) x = expansion.add_bias(x, spec->bias);
      Value* y = only_contrib_ ? expansion.standard(*spec, x) : nullptr;
      const bool standard = y != nullptr;
      if (!standard) y = expansion.chain(*spec, x);
      const std::string label = node->label();
      replace_and_erase(graph, *node, *y);
      context.applied(label, standard ? "standard operator" : "chain");
      changed = true;
    }
    return changed;
  }

 private:
  bool only_contrib_;
};

}  // namespace

std::unique_ptr<Pass> make_expand_activation(const PassOptions& options) {
  return std::make_unique<ExpandActivation>(options.flag("only-contrib"));
}

}  // namespace onnxfold
