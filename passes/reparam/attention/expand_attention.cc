// Attention, and of ONNX Runtime MultiHeadAttention and Attention => Reshape, Transpose, Mul, MatMul, Softmax, MatMul
//
// With caches, grouped heads, masks (bool or numbers), causal order, soft cap, and the outputs that the chain has:
// present keys and values, scaled products, probabilities. Rows that see no key stay zeros. What cannot be spelled is
// left alone with a remark: lengths of valid keys, windows, scores after soft cap or mask, packed inputs, a mask of
// fewer columns than keys (opset 24 allows it), head counts or widths that are not known. The scale multiplies q, which
// also keeps float16 products small. ONNX Runtime's Attention also becomes the Linear inside it (constant or not) and a
// Split. GroupQueryAttention stays: it counts the valid keys of a cache of fixed size. Opset 13. With only-contrib:
// those of ONNX Runtime alone. Rounding.
#include <cmath>

#include "passes/pass.h"
#include "passes/reparam/attention/attention_expansion.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::string_view kMicrosoft = "com.microsoft";

std::int64_t known_dim(const Value* value, std::size_t axis) {
  const auto& shape = value->type().shape;
  return shape && axis < shape->size() && (*shape)[axis].known() ? *(*shape)[axis].value : 0;
}

bool read(const Value* value) { return value != nullptr && !value->uses().empty(); }

// Columns of q, k and v in the weight of com.microsoft Attention; none when they are not known.
std::vector<std::int64_t> packed_sizes(const Node& node) {
  if (const auto sizes = node.attr_ints("qkv_hidden_sizes"); sizes && sizes->size() == 3) return *sizes;
  const std::int64_t all = node.input(1) == nullptr ? 0 : known_dim(node.input(1), 1);
  return all > 0 && all % 3 == 0 ? std::vector<std::int64_t>(3, all / 3) : std::vector<std::int64_t>();
}

// Sums of the rows of a matrix, one for each.
bool sums_rows(const Node& node) {
  return node.is("ReduceSum") && node.attr_int("keepdims", 1) == 0 && node.input(0) != nullptr &&
         node.input(0)->rank() == 2;
}

// Of a mask of one axis: is it as long as the batch, so that it counts valid keys? Of twice the length it names the
// last and the first ones.
bool counts_keys(const Value& mask, const Value& query) {
  const Node* maker = mask.producer();
  while (maker != nullptr && (maker->is("Cast") || maker->is("Identity"))) maker = maker->input(0)->producer();
  if (maker != nullptr && (maker->is("EmbedLayerNormalization", kMicrosoft) || sums_rows(*maker))) return true;
  const auto &given = mask.type().shape, &asked = query.type().shape;
  if (!given || !asked || asked->empty()) return false;
  const Dim &length = (*given)[0], &batch = (*asked)[0];
  if (length.known() && batch.known()) return *length.value == *batch.value;
  return !length.symbol.empty() && length.symbol == batch.symbol;
}

// Reads a node into a spec; `why` says what is in the way.
class Reader {
 public:
  Reader(const Node& node, std::string& why) : node_(node), why_(why) {}

  bool operands(AttentionSpec& spec) {
    for (const Value* value : {spec.q, spec.k, spec.v}) {
      if (value == nullptr) return fail("it has packed inputs");
      const auto rank = value->rank();
      if (!is_float(value->dtype()) || value->dtype() != spec.q->dtype() || (rank != 3 && rank != 4))
        return fail("types and ranks of its inputs are not known");
    }
    const bool counted = heads(spec.q, spec.heads) && heads(spec.k, spec.kv_heads) && heads(spec.v, spec.kv_heads);
    if (!counted || spec.heads % spec.kv_heads != 0) return fail("its head counts are not known");
    if ((spec.past_key == nullptr) != (spec.past_value == nullptr)) return fail("it has half a cache");
    return true;
  }

  bool scale(AttentionSpec& spec, bool zero_is_default) {
    const float given = node_.attr_float("scale", 0);
    if (node_.attribute("scale") != nullptr && !(zero_is_default && given == 0)) {
      spec.scale = static_cast<double>(given);
      return true;
    }
    const bool flat = spec.q->rank() == 3;
    const std::int64_t width = known_dim(spec.q, flat ? 2 : 3) / (flat ? spec.heads : 1);
    if (width == 0) return fail("the width of its heads is not known");
    spec.scale = 1 / std::sqrt(static_cast<double>(width));
    return true;
  }

  bool standard(AttentionSpec& spec) {
    spec.q = node_.input(0), spec.k = node_.input(1), spec.v = node_.input(2);
    spec.mask = node_.input(3), spec.past_key = node_.input(4), spec.past_value = node_.input(5);
    spec.heads = node_.attr_int("q_num_heads", 0), spec.kv_heads = node_.attr_int("kv_num_heads", 0);
    spec.causal = node_.attr_int("is_causal", 0) != 0;
    spec.softcap = static_cast<double>(node_.attr_float("softcap", 0));
    spec.softmax_type = static_cast<DType>(node_.attr_int("softmax_precision", 0));
    if (node_.input(6) != nullptr) return fail("it reads lengths of valid keys");
    if (node_.attr_int("left_window_size", -1) >= 0 || node_.attr_int("right_window_size", -1) >= 0)
      return fail("it looks through a window");
    const std::int64_t stage = node_.attr_int("qk_matmul_output_mode", 0);
    if (read(node_.output(3)) && stage != 0 && stage != 3) return fail("its scores after soft cap or mask are read");
    if (spec.softmax_type != DType::kUndefined && !is_float(spec.softmax_type))
      return fail("the type of its Softmax is no float");
    return operands(spec) && scale(spec, false) && mask_fits(spec);
  }

  // com.microsoft Attention: q, k and v are made when it is spelled, by project().
  bool packed(AttentionSpec& spec) {
    spec.heads = spec.kv_heads = node_.attr_int("num_heads", 0);
    spec.mask = node_.input(5);
    spec.causal = node_.attr_int("unidirectional", 0) != 0;
    const Value* input = node_.input(0);
    const std::vector<std::int64_t> sizes = packed_sizes(node_);
    if (input->rank() != 3 || !is_float(input->dtype()) || sizes.empty() || spec.heads < 1)
      return fail("the widths of its projections are not known");
    for (const std::int64_t size : sizes) {
      if (size % spec.heads != 0) return fail("its heads do not divide its projections");
    }
    if (sizes[0] != sizes[1]) return fail("its queries and keys have other widths");
    if (node_.input(6) != nullptr || node_.attr_int("past_present_share_buffer", 0) != 0)
      return fail("it has a cache of fixed size");
    if (node_.attr_int("do_rotary", 0) != 0) return fail("it rotates queries and keys");
    if (!padding_fits(node_.input(3), node_.input(4) != nullptr)) return false;
    if (spec.mask != nullptr && spec.mask->dtype() != input->dtype()) return fail("the type of its mask is not known");
    const double given = static_cast<double>(node_.attr_float("scale", 0));
    spec.scale = given != 0 ? given : 1 / std::sqrt(static_cast<double>(sizes[0] / spec.heads));
    return true;
  }

  bool multi_head(AttentionSpec& spec) {
    spec.q = node_.input(0), spec.k = node_.input(1), spec.v = node_.input(2);
    spec.mask = node_.input(5), spec.past_key = node_.input(6), spec.past_value = node_.input(7);
    spec.heads = spec.kv_heads = node_.attr_int("num_heads", 0);
    spec.causal = node_.attr_int("unidirectional", 0) != 0;
    for (const std::size_t i : {std::size_t{8}, std::size_t{9}}) {
      if (node_.input(i) != nullptr) return fail("it has a cache of fixed size");
    }
    if (read(node_.output(3))) return fail("its scores are read");
    if (!operands(spec) || !scale(spec, true)) return false;
    if (spec.q->rank() != 3 || spec.k->rank() != spec.v->rank()) return fail("its inputs are packed");
    if (!padding_fits(node_.input(4), spec.past_key != nullptr)) return false;
    const bool widths = known_dim(spec.q, 2) > 0 && (spec.v->rank() == 4 || known_dim(spec.v, 2) > 0);
    if (node_.input(3) != nullptr && !widths) return fail("the widths of its projections are not known");
    return spec.mask == nullptr || spec.mask->dtype() == spec.q->dtype() || fail("the type of its mask is not known");
  }

 private:
  bool fail(std::string why) {
    why_ = std::move(why);
    return false;
  }

  bool padding_fits(const Value* padding, bool cached) {
    if (padding == nullptr) return true;
    const auto rank = padding->rank();
    if (!rank || *rank < 1 || *rank > 3 || !is_integer(padding->dtype()))
      return fail("its key padding mask is no [batch, keys]");
    if (*rank > 1) return true;
    if (cached) return fail("its key padding mask counts keys, and it has a cache");
    return counts_keys(*padding, *node_.input(0)) || fail("it is not known whether its key padding mask counts keys");
  }

  // Of rank 4 the shape says how many; of rank 3 the attribute does, and divides the width.
  static bool heads(const Value* value, std::int64_t& count) {
    if (value->rank() == 4) count = known_dim(value, 1);
    return count > 0 && (value->rank() == 4 || known_dim(value, 2) % count == 0);
  }

  bool mask_fits(const AttentionSpec& spec) {
    if (spec.mask == nullptr) return true;
    if (spec.mask->dtype() != DType::kBool && spec.mask->dtype() != spec.q->dtype())
      return fail("the type of its mask is not known");
    const auto& shape = spec.mask->type().shape;
    if (shape && shape->empty()) return fail("its mask is a scalar");
    const std::size_t axis = spec.k->rank() == 4 ? 2 : 1;
    const Dim keys = (*spec.k->type().shape)[axis], columns = shape ? shape->back() : Dim{};
    const std::int64_t past = spec.past_key == nullptr ? 0 : known_dim(spec.past_key, 2);
    const bool sized = keys.known() && columns.known() && (spec.past_key == nullptr || past > 0);
    const bool same_symbol = spec.past_key == nullptr && !keys.symbol.empty() && keys.symbol == columns.symbol;
    if (same_symbol || (columns.known() && *columns.value == 1)) return true;
    const bool fits = sized ? *columns.value == past + *keys.value : node_.opset() < 24;
    return fits || fail("its mask may have fewer columns than there are keys");
  }

  const Node& node_;
  std::string& why_;
};

// Adds entries [first, last) of the projection bias.
Value* biased(ChainBuilder& build, Value* x, Value* bias, std::int64_t first, std::int64_t last) {
  Value* part =
      build.add("Slice", {bias, build.ints({first}), build.ints({last})}, Type::tensor(x->dtype(), Dims{last - first}));
  return build.map("Add", {x, part});
}

// [batch, keys]: whether a key is among the first ones, of which `counts` says how many.
Value* first_keys(ChainBuilder& build, Value* counts, Value* k) {
  const std::size_t axis = k->rank() == 4 ? 2 : 1;
  const Dim batch = (*counts->type().shape)[0], keys = (*k->type().shape)[axis];
  const auto integer = [&](std::int64_t number) { return build.constant(Tensor::scalar(number)); };
  Value* shape = build.add("Shape", {k}, Type::tensor(DType::kInt64, Dims{*k->rank()}));
  Value* length =
      build.add("Gather", {shape, integer(static_cast<std::int64_t>(axis))}, Type::tensor(DType::kInt64, Dims{}));
  Value* at = build.add("Range", {integer(0), length, integer(1)}, Type::tensor(DType::kInt64, std::vector<Dim>{keys}));
  Value* column = build.add("Unsqueeze", {build.cast(counts, DType::kInt64), build.ints({1})},
                            Type::tensor(DType::kInt64, std::vector<Dim>{batch, Dim{1, "", ""}}));
  return build.add("Less", {at, column}, Type::tensor(DType::kBool, std::vector<Dim>{batch, keys}));
}

// Key padding ([batch, keys] or [batch, queries, keys] with 0 where a key is hidden, or [batch] counting keys) as
// numbers that are added.
void hide_padding(ChainBuilder& build, const Node& node, Value* padding, AttentionSpec& spec) {
  if (padding == nullptr) return;
  const DType dtype = spec.q->dtype();
  Value* seen = padding->rank() == 1 ? first_keys(build, padding, spec.k) : build.cast(padding, DType::kBool);
  const std::vector<Dim> given = *seen->type().shape;
  const bool rows = given.size() == 3;
  const Dim one{1, "", ""};
  const std::vector<Dim> shape = {given[0], one, rows ? given[1] : one, given.back()};
  Value* open =
      build.add("Unsqueeze", {seen, rows ? build.ints({1}) : build.ints({1, 2})}, Type::tensor(DType::kBool, shape));
  Value* hidden = build.scalar(static_cast<double>(node.attr_float("mask_filter_value", -10000)), dtype);
  Value* numbers = build.add("Where", {open, build.scalar(0, dtype), hidden}, Type::tensor(dtype, shape));
  spec.mask = spec.mask == nullptr ? numbers : build.map("Add", {spec.mask, numbers});
}

// What MultiHeadAttention does before attention: projection biases, and padding as numbers that are added.
void prepare(ChainBuilder& build, const Node& node, AttentionSpec& spec) {
  if (Value* bias = node.input(3)) {
    const std::int64_t width = known_dim(spec.q, 2);
    spec.q = biased(build, spec.q, bias, 0, width);
    if (spec.k->rank() == 3) {
      spec.k = biased(build, spec.k, bias, width, 2 * width);
      spec.v = biased(build, spec.v, bias, 2 * width, 2 * width + known_dim(spec.v, 2));
    }
  }
  hide_padding(build, node, node.input(4), spec);
}

// The Linear inside com.microsoft Attention, its columns apart, and the halves of its cache.
void project(ChainBuilder& build, const Node& node, AttentionSpec& spec) {
  Value* input = node.input(0);
  const DType dtype = input->dtype();
  const std::vector<std::int64_t> sizes = packed_sizes(node);
  std::vector<Dim> shape = *input->type().shape;
  shape[2] = Dim{sizes[0] + sizes[1] + sizes[2], "", ""};
  Value* all = build.add("MatMul", {input, node.input(1)}, Type::tensor(dtype, shape));
  if (node.input(2) != nullptr) all = build.map("Add", {all, node.input(2)});
  std::int64_t first = 0;
  Value** parts[] = {&spec.q, &spec.k, &spec.v};
  for (std::size_t i = 0; i < 3; ++i) {
    shape[2] = Dim{sizes[i], "", ""};
    *parts[i] = build.add("Slice", {all, build.ints({first}), build.ints({first + sizes[i]}), build.ints({2})},
                          Type::tensor(dtype, shape));
    first += sizes[i];
  }
  if (Value* past = node.input(4)) {
    const Type half =
        past->rank() == 5
            ? Type::tensor(dtype, std::vector<Dim>(past->type().shape->begin() + 1, past->type().shape->end()))
            : Type::tensor(dtype, std::vector<Dim>(4));
    spec.past_key = build.add("Gather", {past, build.constant(Tensor::scalar(std::int64_t{0}))}, half);
    spec.past_value = build.add("Gather", {past, build.constant(Tensor::scalar(std::int64_t{1}))}, half);
  }
  hide_padding(build, node, node.input(3), spec);
}

// Keys and values as one, as com.microsoft Attention gives them.
Value* stacked(ChainBuilder& build, Value* key, Value* value) {
  const auto lifted = [&](Value* x) {
    std::vector<Dim> shape = *x->type().shape;
    shape.insert(shape.begin(), Dim{1, "", ""});
    return build.add("Unsqueeze", {x, build.ints({0})}, Type::tensor(x->dtype(), shape));
  };
  std::vector<Dim> shape = *key->type().shape;
  shape.insert(shape.begin(), Dim{2, "", ""});
  std::vector<Attribute> axis;
  axis.emplace_back("axis", std::int64_t{0});
  return build.add("Concat", {lifted(key), lifted(value)}, Type::tensor(key->dtype(), shape), std::move(axis));
}

class ExpandAttention final : public Pass {
 public:
  explicit ExpandAttention(bool only_contrib) : only_contrib_(only_contrib) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      const bool packed = node->is("Attention", kMicrosoft);
      const bool contrib = packed || node->is("MultiHeadAttention", kMicrosoft);
      if (node->is("GroupQueryAttention", kMicrosoft)) context.skipped(node->label(), "it counts valid keys by itself");
      if (!contrib && (only_contrib_ || !node->is("Attention"))) continue;
      AttentionSpec spec;
      std::string why;
      Reader reader(*node, why);
      if (graph.opset() < 13) why = "its chain needs opset 13";
      if (!why.empty() || !(packed ? reader.packed(spec) : contrib ? reader.multi_head(spec) : reader.standard(spec))) {
        context.skipped(node->label(), why);
        continue;
      }
      const std::string label = node->label();
      expand(graph, *node, spec);
      context.applied(label, "chain");
      changed = true;
    }
    return changed;
  }

 private:
  static void expand(Graph& graph, Node& node, AttentionSpec& spec) {
    ChainBuilder build(graph, node);
    const bool packed = node.is("Attention", kMicrosoft);
    if (packed) project(build, node, spec);
    if (node.is("MultiHeadAttention", kMicrosoft)) prepare(build, node, spec);
    const ExpandedAttention made = expand_attention(build, spec);
    // An input of the graph cannot be its output.
    const auto stand_in = [&](Value* output, Value* value) {
      if (!read(output)) return;
      const bool own = value != spec.k && value != spec.v;
      graph.replace_all_uses(*output, own ? *value : *build.map("Identity", {value}));
    };
    if (packed && read(node.output(1))) {
      graph.replace_all_uses(*node.output(1), *stacked(build, made.key, made.value));
    } else {
      stand_in(node.output(1), made.key);
    }
    stand_in(node.output(2), made.value);
    stand_in(node.output(3), node.attr_int("qk_matmul_output_mode", 0) == 3 ? made.probabilities : made.scores);
    replace_and_erase(graph, node, *made.output);
  }

  bool only_contrib_;
};

}  // namespace

std::unique_ptr<Pass> make_expand_attention(const PassOptions& options) {
  return std::make_unique<ExpandAttention>(options.flag("only-contrib"));
}

}  // namespace onnxfold
