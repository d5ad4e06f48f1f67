#include "passes/quantize/integer_chain.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "ir/match.h"
#include "passes/quantize/decoded_weight.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr const char* kMicrosoft = "com.microsoft";

// The operators that this file and dequantize.cc do not take back.
bool is_foreign(const Node& node) {
  if (node.domain() != kMicrosoft) return false;
  return node.op_type().starts_with("QLinear") || node.is("QGemm", kMicrosoft) || node.is("QAttention", kMicrosoft) ||
         node.is("MatMulIntegerToFloat", kMicrosoft) || node.is("QMoE", kMicrosoft);
}

class Expander {
 public:
  Expander(Graph& graph, Node& node) : graph_(graph), node_(node) {}

  // What keeps the node as it is; empty: it is gone.
  std::string run() {
    if (node_.is("MatMulInteger") || node_.is("ConvInteger")) return integer();
    if (node_.is("DynamicQuantizeMatMul", kMicrosoft)) return dynamic();
    if (node_.is("QLinearConv")) return linear_conv();
    return linear_matmul();
  }

 private:
  // (codes - zero) * scale, the scale by `axis` or for all.
  std::optional<Tensor> decoded(Value* codes, Value* scale, Value* zero, std::int64_t axis) {
    auto scales = constant_value(scale);
    if (constant(codes) == nullptr || !scales || !*scales) return {};
    const std::int64_t count = (*scales)->size();
    const auto flat = count == 1 ? (*scales)->reshaped({}) : (*scales)->reshaped({count});
    Value* step = add_constant(graph_, flat, "step");
    Value* middle = nullptr;
    if (zero != nullptr) {
      const auto zeros = constant_value(zero);
      if (zeros && *zeros) middle = spread_zero(**zeros, flat.dims());
      if (middle == nullptr) {
        graph_.erase(*step);
        return {};
      }
    }
    NodeSpec spec{"DequantizeLinear", {codes, step}, {{"decoded", Type()}}, {}, "", ""};
    if (middle != nullptr) spec.inputs.push_back(middle);
    spec.attributes.emplace_back("axis", axis);
    Node* temporary = graph_.insert(std::move(spec), &node_);
    const DecodedWeight weight = decode_linear(*temporary);
    graph_.erase(*temporary);
    graph_.erase(*step);
    if (middle != nullptr) graph_.erase(*middle);
    if (!weight.why.empty()) return {};
    return weight.tensor;
  }

  // One zero point for each scale.
  Value* spread_zero(const Tensor& zeros, const Dims& dims) {
    const auto count = static_cast<std::size_t>(element_count(dims));
    if (static_cast<std::size_t>(zeros.size()) == count) return add_constant(graph_, zeros.reshaped(dims), "middle");
    const auto bytes = zeros.bytes();
    if (zeros.size() != 1 || !bytes || bytes->size() != 1) return nullptr;
    return add_constant(graph_, Tensor::owned(zeros.dtype(), dims, Buffer(count, bytes->span()[0])), "middle");
  }

  static const Node* dynamic_source(const Value* codes, const Value* zero) {
    const Node* node = codes != nullptr ? codes->producer() : nullptr;
    const bool fits = node != nullptr && node->is("DynamicQuantizeLinear") && node->output(0) == codes &&
                      zero != nullptr && node->output(2) == zero;
    return fits ? node : nullptr;
  }

  // Of a Mul, the operand that is not `one`.
  static Value* other_operand(const Node& mul, const Value* one) {
    return mul.input(0) == one ? mul.input(1) : mul.input(1) == one ? mul.input(0) : nullptr;
  }

  // The weight's scale in `factor` = activation scale * weight scale; null: something else.
  static Value* weight_scale(Value* factor, const Value* activation_scale) {
    const Node* mul = factor != nullptr ? factor->producer() : nullptr;
    if (mul == nullptr || !mul->is("Mul")) return nullptr;
    return other_operand(*mul, activation_scale);
  }

  std::string integer() {
    const Node* source = dynamic_source(node_.input(0), node_.input(2));
    if (source == nullptr) return "its input does not come from DynamicQuantizeLinear";
    Node* cast = sole_consumer(node_.output());
    if (cast == nullptr || !cast->is("Cast")) return "no Cast follows";
    Node* mul = sole_consumer(cast->output());
    if (mul == nullptr || !mul->is("Mul")) return "no Mul follows";
    Value* factor = other_operand(*mul, cast->output());
    Value* scale = weight_scale(factor, source->output(1));
    if (scale == nullptr && factor == source->output(1)) {  // one scale after the other
      Node* second = sole_consumer(mul->output());
      if (second != nullptr && second->is("Mul")) {
        scale = other_operand(*second, mul->output());
        mul = second;
      }
    }
    if (scale == nullptr) return "the scales of its operands do not follow";
    const bool convolution = node_.is("ConvInteger");
    const auto weight = decoded(node_.input(1), scale, node_.input(3), convolution ? 0 : last_axis(node_.input(1)));
    if (!weight) return "weight, scale or zero point is not constant";
    if (convolution && !by_channel(scale, weight->dims())) return "the scale is not by output channel";
    replace(*mul, convolution ? "Conv" : "MatMul", {source->input(0), float_weight(*weight, *node_.input(1))},
            convolution);
    return {};
  }

  // [M, 1, 1] against [N, M, H, W], or one number.
  static bool by_channel(const Value* scale, const Dims& weight) {
    const auto found = constant_value(scale);
    if (!found || !*found) return false;
    Dims dims = (*found)->dims();
    if ((*found)->size() == 1) return true;
    while (!dims.empty() && dims.front() == 1) dims.erase(dims.begin());
    Dims due{weight[0]};
    due.resize(weight.size() - 1, 1);
    return dims == due;
  }

  static std::int64_t last_axis(const Value* value) {
    const Tensor* tensor = constant(value);
    return tensor != nullptr ? static_cast<std::int64_t>(tensor->rank()) - 1 : 0;
  }

  Value* float_weight(const Tensor& tensor, const Value& codes) {
    return add_constant(graph_, tensor, codes.name() + "_float");
  }

  // `last` is what makes the result that a float operator makes from now on.
  Node* replace(Node& last, const char* op, std::vector<Value*> inputs, bool attributes) {
    NodeSpec spec{op, std::move(inputs), {{last.output()->name(), last.output()->type()}}, {}, "", node_.name};
    if (attributes) copy_attributes(spec);
    Node* made = graph_.insert(std::move(spec), &last);
    replace_and_erase(graph_, last, *made->output());
    return made;
  }

  void copy_attributes(NodeSpec& spec) const {
    for (const char* name : {"dilations", "kernel_shape", "pads", "strides"}) {
      if (auto numbers = node_.attr_ints(name)) spec.attributes.emplace_back(name, *numbers);
    }
    spec.attributes.emplace_back("group", node_.attr_int("group", 1));
    spec.attributes.emplace_back("auto_pad", node_.attr_string("auto_pad", "NOTSET"));
  }

  std::string dynamic() {
    const auto weight = decoded(node_.input(1), node_.input(2), node_.input(3), last_axis(node_.input(1)));
    if (!weight) return "weight, scale or zero point is not constant";
    Value* bias = node_.input(4);
    const std::vector<Value*> old = node_.inputs();
    const Value& output = *node_.output();
    NodeSpec spec{
        "MatMul",  {node_.input(0), float_weight(*weight, *node_.input(1))}, {{output.name(), output.type()}}, {}, "",
        node_.name};
    Node* made = graph_.insert(std::move(spec), &node_);
    if (bias != nullptr) {
      made = graph_.insert({"Add", {made->output(), bias}, {{output.name(), output.type()}}, {}, "", ""}, &node_);
    }
    finish(*made->output(), old);
    return {};
  }

  void finish(Value& result, const std::vector<Value*>& old) {
    replace_and_erase(graph_, node_, result);
    for (Value* value : old) {
      if (value != nullptr && !value->erased()) erase_if_unused(*value->graph(), *value);
    }
  }

  Value* decode_node(std::size_t first) {
    Value* codes = node_.input(first);
    Type type = codes->type();
    if (type.is_tensor()) type.dtype = DType::kFloat32;
    NodeSpec spec{"DequantizeLinear",
                  {codes, node_.input(first + 1), node_.input(first + 2)},
                  {{codes->name() + "_decoded", type}},
                  {},
                  "",
                  ""};
    return graph_.insert(std::move(spec), &node_)->output();
  }

  void quantize_result(const char* op, std::vector<Value*> inputs, bool attributes) {
    const std::vector<Value*> old = node_.inputs();
    Type type = node_.output()->type();
    if (type.is_tensor()) type.dtype = DType::kFloat32;
    NodeSpec spec{op, std::move(inputs), {{node_.output()->name() + "_float", type}}, {}, "", node_.name};
    if (attributes) copy_attributes(spec);
    Value* result = graph_.insert(std::move(spec), &node_)->output();
    Node* quantize = graph_.insert({"QuantizeLinear",
                                    {result, node_.input(6), node_.input(7)},
                                    {{node_.output()->name(), node_.output()->type()}},
                                    {},
                                    "",
                                    ""},
                                   &node_);
    finish(*quantize->output(), old);
  }

  std::string linear_conv() {
    const auto weight = decoded(node_.input(3), node_.input(4), node_.input(5), 0);
    const auto input_scale = scalar_constant(node_.input(1));
    if (!weight || !input_scale) return "weight, scale or zero point is not constant";
    std::vector<Value*> inputs = {nullptr, float_weight(*weight, *node_.input(3))};
    if (Value* bias = node_.input(8)) {
      const auto scales = constant_value(node_.input(4));
      auto steps = scales && *scales ? to_floats(**scales) : fail(Code::kUnsupported, "scales are not constant");
      if (!steps || constant(bias) == nullptr) {
        erase_if_unused(graph_, *inputs[1]);
        return "the bias or its scale is not constant";
      }
      for (float& step : *steps) step *= static_cast<float>(*input_scale);
      const auto count = static_cast<std::int64_t>(steps->size());
      Value* step = add_constant(graph_, Tensor::of<float>({count}, *steps), "bias_step");
      const auto numbers = decoded(bias, step, nullptr, 0);
      graph_.erase(*step);
      if (!numbers) {
        erase_if_unused(graph_, *inputs[1]);
        return "the bias cannot be decoded";
      }
      inputs.push_back(add_constant(graph_, *numbers, bias->name() + "_float"));
    }
    inputs[0] = decode_node(0);
    quantize_result("Conv", std::move(inputs), true);
    return {};
  }

  std::string linear_matmul() {
    Value* right = nullptr;
    if (constant(node_.input(3)) != nullptr) {
      const auto weight = decoded(node_.input(3), node_.input(4), node_.input(5), last_axis(node_.input(3)));
      if (!weight) return "scale or zero point is not constant";
      right = float_weight(*weight, *node_.input(3));
    } else {
      right = decode_node(3);
    }
    Value* left = decode_node(0);
    quantize_result("MatMul", {left, right}, false);
    return {};
  }

  Graph& graph_;
  Node& node_;
};

}  // namespace

Result<bool> expand_integer_operators(Graph& graph, PassContext& context) {
  bool changed = false;
  for (Node* node : graph.nodes()) {
    if (node->erased()) continue;
    if (is_foreign(*node)) {
      context.skipped(node->label(), fmt::format("{} is not taken back to floats", node->op_type()));
      continue;
    }
    const bool known = node->is("MatMulInteger") || node->is("ConvInteger") || node->is("QLinearConv") ||
                       node->is("QLinearMatMul") || node->is("DynamicQuantizeMatMul", kMicrosoft);
    if (!known) continue;
    const std::string label = node->label();
    const std::string why = Expander(graph, *node).run();
    if (!why.empty()) {
      context.skipped(label, why);
      continue;
    }
    context.applied(label, "a float operator again");
    changed = true;
  }
  return changed;
}

}  // namespace onnxfold
