// LayerNormalization, RMSNormalization, GroupNormalization, and of ONNX Runtime SimplifiedLayerNormalization,
// SkipLayerNormalization, SkipSimplifiedLayerNormalization, EmbedLayerNormalization => the chain that every opset has
//
// With only-contrib: ONNX Runtime's alone, and they become Add and the standard operator where the model's opset has it
// (LayerNormalization 17, RMSNormalization 23). With only-embeddings: of these EmbedLayerNormalization alone. float16
// and bfloat16 are computed in float32, as the operators do. Second outputs (mean, inverse deviation, sum) become
// values of the chain. Rounding.
#include "passes/pass.h"
#include "passes/reparam/chain_builder.h"
#include "passes/reparam/norm/embedding_sum.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::string_view kMicrosoft = "com.microsoft";

// What the operators have in common, as values of the graph.
struct Spec {
  bool contrib = false, centre = true, embeddings = false;
  std::int64_t axis = -1;
  float epsilon = 0;
  Value *gain = nullptr, *bias = nullptr;
  std::vector<Value*> addends;                                  // to the input, first of all
  Value *mean = nullptr, *deviation = nullptr, *sum = nullptr;  // further outputs, null when nobody may read them
};

bool read(const Value* value) { return value != nullptr && !value->uses().empty(); }

Value* output_if_read(const Node& node, std::size_t i) { return read(node.output(i)) ? node.output(i) : nullptr; }

std::optional<Spec> skip_spec(const Node& node) {
  Spec spec;
  spec.contrib = true;
  spec.centre = node.is("SkipLayerNormalization", kMicrosoft);
  spec.epsilon = node.attr_float("epsilon", 1e-12F);
  spec.gain = node.input(2);
  if (spec.centre) spec.bias = node.input(3);
  for (Value* addend : {node.input(1), node.input(spec.centre ? 4 : 3)}) {
    if (addend != nullptr) spec.addends.push_back(addend);
  }
  spec.mean = output_if_read(node, 1);
  spec.deviation = output_if_read(node, 2);
  spec.sum = output_if_read(node, 3);
  return spec;
}

std::optional<Spec> embedding_spec(const Node& node) {
  Spec spec;
  spec.contrib = spec.embeddings = true;
  spec.epsilon = node.attr_float("epsilon", 1e-12F);
  spec.gain = node.input(5);
  spec.bias = node.input(6);
  spec.sum = output_if_read(node, 2);
  return spec;
}

std::optional<Spec> spec_of(const Node& node) {
  if (node.is("EmbedLayerNormalization", kMicrosoft)) return embedding_spec(node);
  if (node.is("SkipLayerNormalization", kMicrosoft) || node.is("SkipSimplifiedLayerNormalization", kMicrosoft)) {
    return skip_spec(node);
  }
  Spec spec;
  const bool simplified =
      node.is("SimplifiedLayerNormalization") || node.is("SimplifiedLayerNormalization", kMicrosoft);
  if (!simplified && !node.is("LayerNormalization") && !node.is("RMSNormalization")) return {};
  spec.contrib = simplified;
  spec.centre = node.is("LayerNormalization");
  spec.axis = node.attr_int("axis", -1);
  spec.epsilon = node.attr_float("epsilon", 1e-5F);
  spec.gain = node.input(1);
  if (spec.centre) spec.bias = node.input(2);
  if (spec.centre) spec.mean = output_if_read(node, 1);
  spec.deviation = output_if_read(node, spec.centre ? 2 : 1);
  return spec;
}

// Negative, as it reads in every rank; 0 when the rank is needed and not known.
std::int64_t trailing_axis(const Spec& spec, const Value& x) {
  if (spec.axis < 0) return spec.axis;
  return x.rank() ? spec.axis - *x.rank() : 0;
}

// The whole chain in the type of statistics; replaces further outputs.
Value* chain(Graph& graph, ChainBuilder& build, const Spec& spec, Value* x, std::int64_t axis) {
  const DType outer = x->dtype(), inner = outer == DType::kFloat64 ? outer : DType::kFloat32;
  Value* wide = build.cast(x, inner);
  Value* centred = wide;
  if (spec.centre) {
    Value* mean = build.trailing_mean(wide, axis);
    if (spec.mean != nullptr) graph.replace_all_uses(*spec.mean, *mean);
    centred = build.map("Sub", {wide, mean});
  }
  Value* variance = build.trailing_mean(build.map("Mul", {centred, centred}), axis);
  Value* epsilon = build.scalar(static_cast<double>(spec.epsilon), inner);
  Value* deviation = build.map("Sqrt", {build.map("Add", {variance, epsilon})});
  if (spec.deviation != nullptr) {
    graph.replace_all_uses(*spec.deviation, *build.map("Reciprocal", {deviation}));
  }
  Value* y = build.cast(build.map("Div", {centred, deviation}), spec.gain->dtype());
  y = build.map("Mul", {y, spec.gain});
  return spec.bias == nullptr ? y : build.map("Add", {y, spec.bias});
}

Value* standard(ChainBuilder& build, const Spec& spec, Value* x) {
  std::vector<Attribute> attributes;
  attributes.emplace_back("axis", spec.axis);
  attributes.emplace_back("epsilon", spec.epsilon);
  std::vector<Value*> inputs = {x, spec.gain};
  if (spec.bias != nullptr) inputs.push_back(spec.bias);
  return build.add(spec.centre ? "LayerNormalization" : "RMSNormalization", std::move(inputs), x->type(),
                   std::move(attributes));
}

// GroupNormalization(x) => Reshape, InstanceNormalization, Reshape (, Mul, Add)
Value* group_chain(Graph& graph, ChainBuilder& build, const Node& node, std::int64_t groups) {
  Value* x = node.input(0);
  const bool per_channel = node.opset() >= 21;
  const DType dtype = x->dtype();
  Value *scale = node.input(1), *shift = node.input(2);
  if (per_channel) {
    const auto filled = [&](double number) {
      const std::vector<double> numbers(static_cast<std::size_t>(groups), number);
      return add_constant(graph, from_doubles(dtype, {groups}, numbers).value_or(Tensor()), "group_norm_constant");
    };
    scale = filled(1);
    shift = filled(0);
  }
  std::vector<Dim> flat(3);
  flat[0] = (*x->type().shape)[0];
  flat[1] = Dim{groups, "", ""};
  Value* split = build.add("Reshape", {x, build.ints({0, groups, -1})}, Type::tensor(dtype, flat));
  std::vector<Attribute> epsilon;
  epsilon.emplace_back("epsilon", node.attr_float("epsilon", 1e-5F));
  Value* normal = build.add("InstanceNormalization", {split, scale, shift}, split->type(), std::move(epsilon));
  const std::int64_t rank = *x->rank();
  const auto dims = x->static_dims();
  Value* shape = dims ? build.ints(*dims) : build.add("Shape", {x}, Type::tensor(DType::kInt64, Dims{rank}));
  Value* y = build.add("Reshape", {normal, shape}, x->type());
  if (!per_channel) return y;
  std::vector<std::int64_t> column(static_cast<std::size_t>(rank) - 1, 1);
  column[0] = -1;
  for (const auto& [op, parameter] : {std::pair{"Mul", node.input(1)}, std::pair{"Add", node.input(2)}}) {
    std::vector<Dim> type(column.size(), Dim{1, "", ""});
    type[0] = parameter->type().shape ? (*parameter->type().shape)[0] : Dim{};
    y = build.map(op, {y, build.add("Reshape", {parameter, build.ints(column)}, Type::tensor(dtype, type))});
  }
  return y;
}

class ExpandNorm final : public Pass {
 public:
  ExpandNorm(bool only_contrib, bool only_embeddings)
      : only_contrib_(only_contrib || only_embeddings), only_embeddings_(only_embeddings) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (node->erased()) continue;
      if (node->is("GroupNormalization")) {
        changed = (!only_contrib_ && expand_group(graph, *node, context)) || changed;
        continue;
      }
      const auto spec = spec_of(*node);
      if (spec && !spec->embeddings && only_embeddings_) continue;
      if (spec && (spec->contrib || !only_contrib_)) changed = expand(graph, *node, *spec, context) || changed;
    }
    return changed;
  }

 private:
  bool expand(Graph& graph, Node& node, const Spec& spec, PassContext& context) const {
    if (spec.embeddings) return expand_embeddings(graph, node, spec, context);
    const Value* x = node.input(0);
    if (x == nullptr || spec.gain == nullptr || !is_float(x->dtype())) {
      context.skipped(node.label(), "its element type is not known to be a float");
      return false;
    }
    const std::int64_t axis = trailing_axis(spec, *x);
    if (axis == 0) {
      context.skipped(node.label(), "the rank of its input is not known");
      return false;
    }
    ChainBuilder build(graph, node);
    Value* sum = node.input(0);
    for (Value* addend : spec.addends) sum = build.map("Add", {sum, addend});
    return finish(graph, node, spec, build, sum, axis, context);
  }

  bool expand_embeddings(Graph& graph, Node& node, const Spec& spec, PassContext& context) const {
    if (const std::string problem = embedding_problem(node, graph.opset()); !problem.empty()) {
      context.skipped(node.label(), problem);
      return false;
    }
    ChainBuilder build(graph, node);
    Value* sum = embedding_sum(build, node);
    if (read(node.output(1))) graph.replace_all_uses(*node.output(1), *embedding_mask_counts(build, node));
    return finish(graph, node, spec, build, sum, -1, context);
  }

  // The norm of what was added up, in the place of the node.
  bool finish(Graph& graph, Node& node, const Spec& spec, ChainBuilder& build, Value* sum, std::int64_t axis,
              PassContext& context) const {
    if (spec.sum != nullptr) graph.replace_all_uses(*spec.sum, *sum);
    const bool whole = spec.mean == nullptr && spec.deviation == nullptr;
    const bool keeps = only_contrib_ && whole && graph.opset() >= (spec.centre ? 17 : 23);
    Value* y = keeps ? standard(build, spec, sum) : chain(graph, build, spec, sum, axis);
    const std::string label = node.label();
    replace_and_erase(graph, node, *y);
    context.applied(label, keeps ? "standard operator" : "chain");
    return true;
  }

  static bool expand_group(Graph& graph, Node& node, PassContext& context) {
    const Value* x = node.input(0);
    const std::int64_t groups = node.attr_int("num_groups", 0);
    if (x == nullptr || x->rank().value_or(0) < 3 || !is_float(x->dtype()) || groups < 1 || node.input(2) == nullptr) {
      context.skipped(node.label(), "type and rank of its input are not known");
      return false;
    }
    ChainBuilder build(graph, node);
    Value* y = group_chain(graph, build, node, groups);
    const std::string label = node.label();
    replace_and_erase(graph, node, *y);
    context.applied(label, "chain");
    return true;
  }

  bool only_contrib_, only_embeddings_;
};

}  // namespace

std::unique_ptr<Pass> make_expand_norm(const PassOptions& options) {
  return std::make_unique<ExpandNorm>(options.flag("only-contrib"), options.flag("only-embeddings"));
}

}  // namespace onnxfold
