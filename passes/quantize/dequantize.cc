// MatMulNBits(x, B) => MatMul(x, W); GatherBlockQuantized(T, i) => Gather(W, i);
// Cast(Gather(codes, i)) * Gather(scales, i) => Gather(W, i); DequantizeLinear(codes) => W;
// DequantizeLinear(QuantizeLinear(x)) => x, or x times a number plus another where it reads codes with another grid;
// MatMulInteger and ConvInteger of DynamicQuantizeLinear(x), with their
// rescaling => MatMul and Conv of x; QLinearConv, QLinearMatMul, DynamicQuantizeMatMul => the same on floats.
//
// Back to floating point, so that a quantized model can be quantized anew or repaired. Conditions: codes are constant,
// scales and zero points depend on constants only. Weights are exactly what the codes stand for (decoded when the file
// is written). activations=false leaves the rounding of activations where it stands. A table and a product that share
// codes share the float weight. Lossy only in that activations are rounded no more.
#include <fmt/format.h>

#include <map>

#include "ir/match.h"
#include "passes/pass.h"
#include "passes/quantize/decoded_weight.h"
#include "passes/quantize/gathered_codes.h"
#include "passes/quantize/integer_chain.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr const char* kMicrosoft = "com.microsoft";

bool is_either(const Node& node, std::string_view op) { return node.is(op) || node.is(op, kMicrosoft); }

// Same numbers, from one value or from two.
bool same_constants(const Value* a, const Value* b) {
  if (a == b) return true;
  const auto left = constant_value(a), right = constant_value(b);
  if (!left || !right || !*left || !*right) return false;
  if ((*left)->dtype() != (*right)->dtype() || (*left)->dims() != (*right)->dims()) return false;
  const auto one = (*left)->bytes(), two = (*right)->bytes();
  return one && two && std::equal(one->span().begin(), one->span().end(), two->span().begin(), two->span().end());
}

class Dequantize final : public Pass {
 public:
  explicit Dequantize(bool activations) : activations_(activations) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    find_shared(graph);
    bool changed = false;
    if (activations_) {
      OF_ASSIGN(changed, expand_integer_operators(graph, context));
    }
    for (Node* node : graph.nodes()) {
      if (node->erased()) continue;
      OF_ASSIGN(const bool here, rewrite(graph, *node, context));
      changed = changed || here;
    }
    return changed;
  }

 private:
  using Key = std::tuple<const Graph*, const Value*, const Value*, const Value*, std::int64_t>;

  // Codes that products and tables read.
  void find_shared(const Graph& graph) {
    for (const Node* node : graph.nodes()) {
      if (node->is("MatMulNBits", kMicrosoft)) ++by_products_[packed_codes(*node)];
      if (node->is("GatherBlockQuantized", kMicrosoft)) ++by_tables_[packed_codes(*node)];
    }
  }

  Result<bool> rewrite(Graph& graph, Node& node, PassContext& context) {
    if (node.is("MatMulNBits", kMicrosoft)) return product(graph, node, context);
    if (node.is("GatherBlockQuantized", kMicrosoft)) return table(graph, node, context);
    if (node.is("Mul")) return gathered(graph, node, context);
    if (!is_either(node, "DequantizeLinear")) return false;
    if (constant(node.input(0)) != nullptr) return linear(graph, node, context);
    if (Value* codes = turned_codes(node)) return turned_linear(graph, node, *codes, context);
    return activations_ ? pair(graph, node, context) : Result<bool>(false);
  }

  static bool refused(const DecodedWeight& weight, const Node& node, std::size_t codes, PassContext& context) {
    if (weight.why.empty()) return false;
    const Tensor* tensor = constant(node.input(codes));
    context.skipped(node.label(), weight.why, tensor != nullptr ? tensor->nbytes() : 0);
    return true;
  }

  Value* stored(Graph& graph, const Key& key, const Tensor& tensor, std::string_view name) {
    Value*& made = made_[key];
    if (made == nullptr) made = add_constant(graph, tensor, name);
    return made;
  }

  // "w" of "w_Q4", "w_DQ_Q4" and the like.
  static std::string plain_name(const std::string& name) {
    for (const char* ending : {"_DQ_Q2", "_DQ_Q4", "_DQ_Q8", "_Q2", "_Q4", "_Q8", "_quantized"}) {
      const std::string_view end(ending);
      if (name.size() > end.size() && name.ends_with(end)) return name.substr(0, name.size() - end.size());
    }
    return name + "_float";
  }

  static void erase_dead(const std::vector<Value*>& values) {
    for (Value* value : values) {
      if (value != nullptr && !value->erased()) erase_if_unused(*value->graph(), *value);
    }
  }

  Result<bool> product(Graph& graph, Node& node, PassContext& context) {
    const Value* codes = packed_codes(node);
    const bool tied = codes != nullptr && by_tables_.contains(codes);
    const DecodedWeight weight = decode_product(node, tied);
    if (refused(weight, node, 1, context)) return false;
    const std::int64_t before = constant(codes)->nbytes();
    Value* float_weight = stored(graph, {&graph, codes, node.input(2), node.input(3), tied ? 1 : 0}, weight.tensor,
                                 plain_name(codes->name()));
    const Value& output = *node.output();
    if (tied) {
      float_weight = insert_transpose(graph, node, *float_weight);
    }
    NodeSpec spec{"MatMul", {node.input(0), float_weight}, {{output.name(), output.type()}}, {}, "", node.name};
    Node* made = graph.insert(std::move(spec), &node);
    if (node.input(5) != nullptr) {
      made =
          graph.insert({"Add", {made->output(), node.input(5)}, {{output.name(), output.type()}}, {}, "", ""}, &node);
    }
    const std::vector<Value*> old = node.inputs();
    context.applied(node.label(), "float weight again", before, weight.tensor.nbytes());
    replace_and_erase(graph, node, *made->output());
    erase_dead(old);
    return true;
  }

  Result<bool> table(Graph& graph, Node& node, PassContext& context) {
    const DecodedWeight weight = decode_table(node);
    if (refused(weight, node, 0, context)) return false;
    const Value* codes = packed_codes(node);
    const std::int64_t before = constant(codes)->nbytes();
    Value* float_table =
        stored(graph, {&graph, codes, node.input(2), node.input(3), 1}, weight.tensor, plain_name(codes->name()));
    NodeSpec spec{"Gather", {float_table, node.input(1)}, {{node.output()->name(), node.output()->type()}}, {}, "",
                  node.name};
    spec.attributes.emplace_back("axis", node.attr_int("gather_axis", 0));
    Node* made = graph.insert(std::move(spec), &node);
    const std::vector<Value*> old = node.inputs();
    context.applied(node.label(), "float table again", before, weight.tensor.nbytes());
    replace_and_erase(graph, node, *made->output());
    erase_dead(old);
    return true;
  }

  // A table whose rows are decoded behind the Gather (qdq-int8, dynamic-int8).
  Result<bool> gathered(Graph& graph, Node& node, PassContext& context) {
    const auto codes = gathered_codes(node);
    if (!codes) return false;
    const Tensor table = decoded_rows(*codes);
    Value* made =
        stored(graph, {&graph, codes->codes, codes->scales, nullptr, 0}, table, plain_name(codes->codes->name()));
    NodeSpec spec{"Gather", {made, codes->at}, {{node.output()->name(), node.output()->type()}}, {}, "", node.name};
    Node* gather = graph.insert(std::move(spec), &node);
    context.applied(node.label(), "float table again", constant(codes->codes)->nbytes(), table.nbytes());
    replace_and_erase(graph, node, *gather->output());
    erase_dead({codes->codes, codes->scales});
    return true;
  }

  // `turned`: the node that wants the transpose of it.
  Result<bool> linear(Graph& graph, Node& node, PassContext& context, Node* turned = nullptr) {
    const DecodedWeight weight = decode_linear(node);
    if (refused(weight, node, 0, context)) return false;
    const std::int64_t before = constant(node.input(0))->nbytes();
    const std::int64_t layout = 2 + node.attr_int("axis", 1) * 1024 + node.attr_int("block_size", 0);
    Value* made = stored(graph, {&graph, node.input(0), node.input(1), node.input(2), layout}, weight.tensor,
                         plain_name(node.input(0)->name()));
    std::vector<Value*> old = node.inputs();
    context.applied(node.label(), "float weight again", before, weight.tensor.nbytes());
    if (turned == nullptr) {
      replace_and_erase(graph, node, *made);
    } else {
      Value* result = insert_transpose(graph, node, *made);
      graph.erase(node);
      replace_and_erase(graph, *turned, *result);
    }
    erase_dead(old);
    return true;
  }

  // The matrix of codes behind a Transpose: a product reads a table's codes that way.
  static Value* behind_transpose(Value* value) {
    const Node* node = value != nullptr ? value->producer() : nullptr;
    const bool turns = node != nullptr && node->is("Transpose") && value->rank() == 2 && swaps_axes(*node);
    return turns ? node->input(0) : nullptr;
  }
  static Value* turned_codes(const Node& node) {
    Value* codes = behind_transpose(node.input(0));
    return constant(codes) != nullptr ? codes : nullptr;
  }

  // Decoded as the table is, and then transposed, so that both readers share it.
  Result<bool> turned_linear(Graph& graph, Node& node, Value& codes, PassContext& context) {
    NodeSpec spec{"DequantizeLinear", {&codes}, {{codes.name() + "_turned", Type()}}, {}, "", ""};
    for (const std::size_t i : {1U, 2U}) {
      Value* part = node.input(i);
      Value* inner = behind_transpose(part);
      if (part != nullptr) spec.inputs.push_back(inner != nullptr ? inner : part);
    }
    const std::int64_t axis = node.attr_int("axis", 1), block = node.attr_int("block_size", 0);
    spec.attributes.emplace_back("axis", 1 - (axis < 0 ? axis + 2 : axis));
    if (block != 0) spec.attributes.emplace_back("block_size", block);
    Node* straight = graph.insert(std::move(spec), &node);
    OF_ASSIGN(const bool done, linear(graph, *straight, context, &node));
    if (!done) graph.erase(*straight);
    return done;
  }

  // Codes read with another grid than they are written with: S * (x / s + z - Z).
  static Result<bool> other_pair(Graph& graph, Node& node, Node& quantize, PassContext& context) {
    const auto scale = scalar_constant(node.input(1)), written = scalar_constant(quantize.input(1));
    const auto zero = zero_point(node), from = zero_point(quantize);
    const Type type = node.output()->type();
    const DType dtype = quantize.input(0)->dtype();
    if (!scale || !written || !zero || !from || dtype != type.dtype ||
        (dtype != DType::kFloat32 && dtype != DType::kFloat64)) {
      context.skipped(node.label(), "has another scale or zero point than the QuantizeLinear in front");
      return false;
    }
    const std::string name = node.output()->name();
    const auto number = [&](double x) { return add_constant(graph, in_type(x, dtype), name + "_number"); };
    Value* source = quantize.input(0);
    if (*scale != *written) {
      source = graph.insert({"Mul", {source, number(*scale / *written)}, {{name, type}}, {}, "", ""}, &node)->output();
    }
    if (*zero != *from) {
      Value* shift = number(*scale * (*from - *zero));
      source = graph.insert({"Add", {source, shift}, {{name, type}}, {}, "", ""}, &node)->output();
    }
    const std::vector<Value*> old = quantize.inputs();
    context.note(node.label(), "activations are rounded no more");
    replace_and_erase(graph, node, *source);
    erase_dead(old);
    return true;
  }
  static std::optional<double> zero_point(const Node& node) {
    return node.input(2) == nullptr ? 0 : scalar_constant(node.input(2));
  }
  static Tensor in_type(double x, DType dtype) {
    return dtype == DType::kFloat64 ? Tensor::of<double>({}, {x}) : Tensor::scalar(static_cast<float>(x));
  }

  static Result<bool> pair(Graph& graph, Node& node, PassContext& context) {
    Node* quantize = node.input(0) != nullptr ? node.input(0)->producer() : nullptr;
    if (quantize == nullptr) return false;
    if (!is_either(*quantize, "QuantizeLinear")) {
      if (!is_either(*quantize, "DynamicQuantizeLinear")) {
        context.skipped(node.label(), fmt::format("its codes come from {}", quantize->op_type()));
        return false;
      }
    } else if (!same_constants(quantize->input(1), node.input(1)) ||
               !same_constants(quantize->input(2), node.input(2))) {
      return other_pair(graph, node, *quantize, context);
    }
    Value* source = quantize->input(0);
    const DType type = node.output()->dtype();
    if (type != DType::kUndefined && source->dtype() != type) {
      Type wanted = source->type();
      wanted.dtype = type;
      NodeSpec cast{"Cast", {source}, {{node.output()->name(), wanted}}, {}, "", ""};
      cast.attributes.emplace_back("to", static_cast<std::int64_t>(type));
      source = graph.insert(std::move(cast), &node)->output();
    }
    const std::vector<Value*> old = quantize->inputs();
    context.note(node.label(), "activations are rounded no more");
    replace_and_erase(graph, node, *source);
    erase_dead(old);
    return true;
  }

  bool activations_;
  std::map<const Value*, int> by_products_, by_tables_;  // looked up only
  std::map<Key, Value*> made_;                           // looked up only
};

}  // namespace

std::unique_ptr<Pass> make_dequantize(const PassOptions& options) {
  return std::make_unique<Dequantize>(options.flag("activations"));
}

}  // namespace onnxfold
