// MatMulNBits(x, B), GatherBlockQuantized(T, i) <=> MatMul(x, DequantizeLinear(W)), Gather(DequantizeLinear(T), i).
//
// to=dequantizelinear: constant weights of 2 (opset 25), 4 or 8 bits without g_idx; zero points must be whole numbers
// of the weight's range. Opset 21 (the model is raised when it is older and something converts).
// to=matmulnbits: blocked DequantizeLinear of a constant [K, N] on axis 0 that one MatMul or plain Gemm multiplies by,
// or of a constant [V, D] on axis 1 that one Gather reads rows of. Blocks: a power of two from 16 to 256.
// Exact: codes, zero points and scales keep their values; only their packing changes.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "formats/onnx/schema.h"
#include "passes/pass.h"
#include "passes/quantize/block_layout.h"
#include "passes/quantize/packing.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kStandardOpset = 21;  // first with blocked DequantizeLinear and int4
constexpr std::int64_t kTwoBitOpset = 25;
constexpr const char* kMicrosoft = "com.microsoft";

// What a node turned out to be: convertible, or why not.
struct Match {
  std::string why;  // empty: convertible
  StoredBlocks weight;
  std::int64_t axis = 0;     // of DequantizeLinear when the tensors are taken as they are
  bool as_is = false;        // int4 tables: already in the standard packing
  Node* consumer = nullptr;  // of a DequantizeLinear
};

Match refuse(std::string why) {
  Match match;
  match.why = std::move(why);
  return match;
}

bool power_of_two(std::int64_t x) { return x > 0 && (x & (x - 1)) == 0; }

std::int64_t blocks_of(std::int64_t cols, std::int64_t block) { return cols / block + (cols % block != 0 ? 1 : 0); }

// Product of small factors, -1 when it overflows: a size that no tensor has.
std::int64_t product(std::initializer_list<std::int64_t> factors) {
  std::int64_t result = 1;
  for (const std::int64_t factor : factors) {
    if (__builtin_mul_overflow(result, factor, &result)) return -1;
  }
  return result;
}

// Whole float zero points [rows, blocks] as packed bytes, or why they are none.
std::string pack_float_zeros(StoredBlocks& weight) {
  const auto values = to_doubles(weight.zeros);
  if (!values) return values.error().message;
  BlockCodes codes;
  codes.rows = weight.rows;
  codes.blocks = weight.blocks();
  for (const double value : *values) {
    if (!(value >= 0 && value < (1 << weight.bits)) || value != std::floor(value)) {
      return "a zero point is no whole number of the weight's range";
    }
    codes.zeros.push_back(static_cast<std::uint8_t>(value));
  }
  weight.zeros = Tensor::owned(DType::kUint8, {codes.rows, (codes.blocks * weight.bits + 7) / 8},
                               pack_zero_rows(codes, weight.bits));
  return {};
}

// Optional zero points of a packed layout.
std::string take_packed_zeros(const Value* value, StoredBlocks& weight) {
  if (value == nullptr) return {};
  const Tensor* zeros = constant(value);
  if (zeros == nullptr) return "zero points are not constant";
  weight.zeros = *zeros;
  if (zeros->dtype() == DType::kUint8) {
    const bool fits = zeros->size() == weight.rows * ((weight.blocks() * weight.bits + 7) / 8);
    return fits ? "" : "zero points do not fit the weight";
  }
  if (!is_float(zeros->dtype())) return fmt::format("zero points have type {}", name(zeros->dtype()));
  if (zeros->size() != weight.rows * weight.blocks()) return "zero points do not fit the weight";
  return pack_float_zeros(weight);
}

std::string bits_refusal(const Node& node, std::int64_t bits) {
  if (bits != 2 && bits != 4 && bits != 8) return fmt::format("{} bits", bits);
  if (bits == 2 && node.graph()->opset() < kTwoBitOpset) return "2 bits need opset 25";
  return {};
}

Match match_product(Node& node) {
  if (node.input(4) != nullptr) return refuse("has g_idx");
  const std::int64_t bits = node.attr_int("bits", 4);
  if (auto why = bits_refusal(node, bits); !why.empty()) return refuse(std::move(why));
  if (node.attr_int("weight_prepacked", 0) != 0) return refuse("weight is packed for one machine");
  const Tensor* codes = constant(node.input(1));
  const Tensor* scales = constant(node.input(2));
  if (codes == nullptr) return refuse("weight is not constant");
  if (scales == nullptr) return refuse("scales are not constant");
  Match match;
  StoredBlocks& w = match.weight;
  w = {BlockLayout::kPadded,
       static_cast<int>(bits),
       node.attr_int("N", 0),
       node.attr_int("K", 0),
       node.attr_int("block_size", 0),
       *codes,
       *scales,
       {}};
  if (w.rows <= 0 || w.cols <= 0 || w.block < 16 || !power_of_two(w.block)) {
    return refuse("K, N or block_size is out of range");
  }
  const std::int64_t blocks = blocks_of(w.cols, w.block);
  if (codes->dtype() != DType::kUint8 || w.block > codes->size() * 8 ||
      codes->size() != product({w.rows, blocks, w.block * bits / 8}) || scales->size() != w.rows * blocks ||
      !is_float(scales->dtype())) {
    return refuse("weight or scales do not fit K and N");
  }
  match.why = take_packed_zeros(node.input(3), w);
  return match;
}

// Tables of int4 and uint4 are in the standard packing already.
Match match_int4_table(const Node& node, const Tensor& codes, const Tensor& scales, std::int64_t axis) {
  Match match;
  match.as_is = true;
  match.axis = axis;
  StoredBlocks& w = match.weight;
  w.layout = BlockLayout::kStandard;
  w.codes = codes;
  w.scales = scales;
  w.block = node.attr_int("block_size", 128);
  if (node.attr_int("bits", 4) != 4) return refuse("bits contradict the type of the table");
  Dims due = codes.dims();
  due[static_cast<std::size_t>(axis)] = blocks_of(due[static_cast<std::size_t>(axis)], w.block);
  if (scales.dims() != due) return refuse("scales do not fit the table");
  if (node.input(3) == nullptr) return match;
  const Tensor* zeros = constant(node.input(3));
  if (zeros == nullptr) return refuse("zero points are not constant");
  if (zeros->dims() != due || zeros->dtype() != codes.dtype()) return refuse("zero points do not fit the table");
  w.zeros = *zeros;
  return match;
}

Match match_table(Node& node) {
  const Tensor* codes = constant(node.input(0));
  const Tensor* scales = constant(node.input(2));
  if (codes == nullptr) return refuse("table is not constant");
  if (scales == nullptr) return refuse("scales are not constant");
  const std::int64_t block = node.attr_int("block_size", 128);
  if (block < 16 || !power_of_two(block)) return refuse("block_size is out of range");
  if (codes->size() == 0 || codes->rank() == 0) return refuse("table is empty or a scalar");
  if (!is_float(scales->dtype())) return refuse("scales are no floating-point numbers");
  std::int64_t axis = node.attr_int("quantize_axis", 1);
  if (axis < 0) axis += codes->rank();
  if (axis < 0 || axis >= codes->rank()) return refuse("quantize_axis is out of range");
  if (codes->dtype() == DType::kInt4 || codes->dtype() == DType::kUint4) {
    return match_int4_table(node, *codes, *scales, axis);
  }
  if (codes->dtype() != DType::kUint8) return refuse(fmt::format("table has type {}", name(codes->dtype())));
  const std::int64_t bits = node.attr_int("bits", 4);
  if (auto why = bits_refusal(node, bits); !why.empty()) return refuse(std::move(why));
  if (codes->rank() != 2) return refuse(fmt::format("table has rank {}, need 2", codes->rank()));
  if (axis != 1) return refuse("quantized along another axis than the last");
  Match match;
  StoredBlocks& w = match.weight;
  w = {BlockLayout::kTable,
       static_cast<int>(bits),
       codes->dims()[0],
       codes->dims()[1] * 8 / bits,
       block,
       *codes,
       *scales,
       {}};
  if (scales->size() != w.rows * blocks_of(w.cols, block)) return refuse("scales do not fit the table");
  match.why = take_packed_zeros(node.input(3), w);
  return match;
}

// A constant scale, also one stored as float16 and widened by a Cast.
std::optional<Tensor> scale_of(const Value* value) {
  if (const Tensor* tensor = constant(value)) return *tensor;
  const Node* cast = value != nullptr ? value->producer() : nullptr;
  if (cast == nullptr || !cast->is("Cast")) return {};
  const Tensor* half = constant(cast->input(0));
  const bool widens = cast->attr_int("to", 0) == static_cast<std::int64_t>(DType::kFloat32);
  if (half == nullptr || half->dtype() != DType::kFloat16 || !widens) return {};
  return Tensor::deferred(DType::kFloat32, half->dims(), [source = *half]() -> Result<Buffer> {
    OF_ASSIGN(const std::vector<float> values, to_floats(source));
    const auto bytes = std::as_bytes(std::span(values));
    return Buffer(bytes.begin(), bytes.end());
  });
}

// Why the reader of a dequantized weight has no fused form.
std::string consumer_refusal(const Node* reader, const Value* weight, std::int64_t axis) {
  if (reader == nullptr) return "read more than once, or outside its graph";
  if (reader->is("Gather")) {
    if (reader->input(0) != weight) return "gives the indices of a Gather";
    if (axis != 1) return "a gathered table has its blocks along columns";
    const std::int64_t along = reader->attr_int("axis", 0);
    return along == 0 || along == -2 ? "" : "gathered along columns";
  }
  if (!reader->is("MatMul") && !reader->is("Gemm")) return fmt::format("read by {}", reader->op_type());
  if (reader->input(1) != weight) return fmt::format("is not the right operand of {}", reader->op_type());
  if (axis != 0) return "blocks do not run along axis 0";
  if (reader->is("MatMul")) return {};
  if (reader->attr_int("transA", 0) != 0 || reader->attr_int("transB", 0) != 0) return "Gemm transposes an operand";
  const bool beta = reader->input(2) != nullptr && reader->attr_float("beta", 1) != 1;
  return beta || reader->attr_float("alpha", 1) != 1 ? "Gemm scales by alpha or beta" : "";
}

std::string standard_refusal(const Node& node, const StoredBlocks& w, std::int64_t axis) {
  const DType type = w.codes.dtype();
  if (!is_integer(type) || (bit_width(type) != 2 && bit_width(type) != 4 && bit_width(type) != 8)) {
    return fmt::format("weight has type {}", name(type));
  }
  if (w.codes.rank() != 2) return fmt::format("weight has rank {}, need 2", w.codes.rank());
  if (w.codes.size() == 0) return "weight is empty";
  if (w.block == 0) return "not quantized in blocks";
  if (!power_of_two(w.block) || w.block < 16 || w.block > 256) {
    return fmt::format("blocks of {}, need a power of two from 16 to 256", w.block);
  }
  if (axis != 0 && axis != 1) return "axis is out of range";
  if (w.scales.dtype() != DType::kFloat32 && w.scales.dtype() != DType::kFloat16) {
    return fmt::format("scales have type {}", name(w.scales.dtype()));
  }
  const std::int64_t output = node.attr_int("output_dtype", 0);
  if (output != 0 && output != static_cast<std::int64_t>(w.scales.dtype()))
    return "result has another type than scales";
  Dims due = w.codes.dims();
  due[static_cast<std::size_t>(axis)] = blocks_of(due[static_cast<std::size_t>(axis)], w.block);
  if (w.scales.dims() != due) return "scales do not fit the weight";
  if (w.zeros.defined() && (w.zeros.dims() != due || w.zeros.dtype() != type))
    return "zero points do not fit the weight";
  return {};
}

Match match_standard(Node& node) {
  const Tensor* codes = constant(node.input(0));
  const auto scales = scale_of(node.input(1));
  if (codes == nullptr) return refuse("weight is not constant");
  if (!scales) return refuse("scales are not constant");
  Match match;
  StoredBlocks& w = match.weight;
  w.codes = *codes;
  w.scales = *scales;
  w.block = node.attr_int("block_size", 0);
  w.bits = bit_width(codes->dtype());
  if (node.input(2) != nullptr) {
    const Tensor* zeros = constant(node.input(2));
    if (zeros == nullptr) return refuse("zero points are not constant");
    w.zeros = *zeros;
  }
  std::int64_t axis = node.attr_int("axis", 1);
  if (axis < 0) axis += codes->rank();
  if (auto why = standard_refusal(node, w, axis); !why.empty()) return refuse(std::move(why));
  match.consumer = sole_consumer(node.output());
  if (auto why = consumer_refusal(match.consumer, node.output(), axis); !why.empty()) return refuse(std::move(why));
  w.layout = axis == 0 ? BlockLayout::kStandardAcross : BlockLayout::kStandard;
  w.rows = codes->dims()[axis == 0 ? 1 : 0];
  w.cols = codes->dims()[static_cast<std::size_t>(axis)];
  if (axis == 1 && w.cols * w.bits % 8 != 0) return refuse("a row does not fill whole bytes");
  return match;
}

class ConvertBlockwiseForm final : public Pass {
 public:
  explicit ConvertBlockwiseForm(const PassOptions& options)
      : standard_(options.text("to") == "dequantizelinear"), accuracy_level_(options.integer("accuracy-level")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    OF_ASSIGN(const bool raised, raise_opset(graph, context));
    bool changed = raised;
    for (Node* node : graph.nodes()) {
      if (node->erased()) continue;
      const auto match = look_at(*node);
      if (!match) continue;
      const Tensor* weight = constant(node->input(node->is("MatMulNBits", kMicrosoft) ? 1 : 0));
      if (!match->why.empty()) {
        context.skipped(node->label(), match->why, weight != nullptr ? weight->nbytes() : 0);
        continue;
      }
      const std::string label = match->consumer != nullptr ? match->consumer->label() : node->label();
      const std::int64_t after = standard_ ? to_standard(graph, *node, *match) : to_packed(graph, *node, *match);
      context.applied(label, standard_ ? "DequantizeLinear" : "com.microsoft operator", match->weight.bytes(), after);
      changed = true;
    }
    return changed;
  }

 private:
  struct Parts {
    Value* codes = nullptr;
    Value* scales = nullptr;
    Value* zeros = nullptr;
    std::int64_t bytes = 0;
  };

  std::optional<Match> look_at(Node& node) const {
    if (!standard_) return node.is("DequantizeLinear") ? std::optional(match_standard(node)) : std::nullopt;
    if (node.is("MatMulNBits", kMicrosoft)) return match_product(node);
    if (node.is("GatherBlockQuantized", kMicrosoft)) return match_table(node);
    return {};
  }

  bool anything_in(const Graph& graph) const {
    for (Node* node : graph.nodes()) {
      const auto match = look_at(*node);
      if (match && match->why.empty()) return true;
      const auto inner = node->subgraphs();
      if (std::any_of(inner.begin(), inner.end(), [&](const Graph* sub) { return anything_in(*sub); })) return true;
    }
    return false;
  }

  Result<bool> raise_opset(Graph& graph, PassContext& context) const;
  Parts add_parts(Graph& graph, const StoredBlocks& weight, std::string_view name);
  Parts parts_of(Graph& graph, const Node& node, std::size_t first, const Match& match, BlockLayout to);
  std::int64_t to_standard(Graph& graph, Node& node, const Match& match);
  std::int64_t to_packed(Graph& graph, Node& node, const Match& match);
  Node* emit_product(Graph& graph, Node& reader, const StoredBlocks& weight, const Parts& parts) const;
  Node* emit_table(Graph& graph, Node& reader, const StoredBlocks& weight, const Parts& parts) const;

  bool standard_;
  std::int64_t accuracy_level_;
  // Weights that several nodes read in the same way are stored once: graph, the three values, layout, rows, cols,
  // block.
  using Key = std::tuple<const Graph*, const Value*, const Value*, const Value*, BlockLayout, std::int64_t,
                         std::int64_t, std::int64_t>;
  std::map<Key, Parts> made_;
};

Result<bool> ConvertBlockwiseForm::raise_opset(Graph& graph, PassContext& context) const {
  if (!standard_ || graph.parent() != nullptr || graph.opset() >= kStandardOpset || !anything_in(graph)) return false;
  auto status = convert_opset(context.model(), kStandardOpset);
  if (!status) {
    return fail(
        Code::kUnsupported,
        fmt::format("to=dequantizelinear needs opset 21, and the model cannot be raised: {}", status.error().message));
  }
  OF_TRY(infer_shapes(context.model()));
  context.note("model", "opset raised to 21 for blocked DequantizeLinear");
  return true;
}

ConvertBlockwiseForm::Parts ConvertBlockwiseForm::add_parts(Graph& graph, const StoredBlocks& weight,
                                                            std::string_view name) {
  const std::string infix = weight.standard() ? "_DQ" : "";
  Parts parts;
  parts.codes = add_constant(graph, weight.codes, fmt::format("{}{}_Q{}", name, infix, weight.bits));
  parts.scales = add_constant(graph, weight.scales, fmt::format("{}{}_scales", name, infix));
  if (weight.zeros.defined()) {
    parts.zeros = add_constant(graph, weight.zeros, fmt::format("{}{}_zero_points", name, infix));
  }
  parts.bytes = weight.bytes();
  return parts;
}

// The name of a weight before it was quantized: converting back and forth must not grow it.
std::string plain_name(std::string name) {
  for (const std::string_view suffix : {"_Q2", "_Q4", "_Q8"}) {
    if (name.size() > suffix.size() && name.ends_with(suffix)) name.resize(name.size() - suffix.size());
  }
  if (name.size() > 3 && name.ends_with("_DQ")) name.resize(name.size() - 3);
  return name;
}

// `node` reads codes at `first`, and scales and zero points where its kind has them.
ConvertBlockwiseForm::Parts ConvertBlockwiseForm::parts_of(Graph& graph, const Node& node, std::size_t first,
                                                           const Match& match, BlockLayout to) {
  const bool table = node.is("GatherBlockQuantized", kMicrosoft);
  const std::size_t scale = first + (table ? 2 : 1);
  const StoredBlocks& w = match.weight;
  const Key key{&graph, node.input(first), node.input(scale), node.input(scale + 1), to, w.rows, w.cols, w.block};
  if (const auto found = made_.find(key); found != made_.end()) return found->second;
  const StoredBlocks converted = match.as_is ? w : convert_blocks(w, to);
  return made_[key] = add_parts(graph, converted, plain_name(node.input(first)->name()));
}

std::int64_t ConvertBlockwiseForm::to_standard(Graph& graph, Node& node, const Match& match) {
  const bool table = node.is("GatherBlockQuantized", kMicrosoft);
  const BlockLayout layout = table ? BlockLayout::kStandard : BlockLayout::kStandardAcross;
  const Parts parts = parts_of(graph, node, table ? 0 : 1, match, layout);
  std::vector<Value*> inputs = {parts.codes, parts.scales};
  if (parts.zeros != nullptr) inputs.push_back(parts.zeros);
  const Type type = Type::tensor(match.weight.scales.dtype(), constant(parts.codes)->dims());
  NodeSpec dequantize{
      "DequantizeLinear", std::move(inputs), {{plain_name(parts.codes->name()) + "_DQ", type}}, {}, "", ""};
  const std::int64_t axis = match.as_is ? match.axis : (table ? 1 : 0);
  dequantize.attributes.emplace_back("axis", axis);
  dequantize.attributes.emplace_back("block_size", match.weight.block);
  Value* weight = graph.insert(std::move(dequantize), &node)->output();
  const Value& output = *node.output();
  NodeSpec reader{table ? "Gather" : "MatMul", {}, {{output.name(), output.type()}}, {}, "", node.name};
  reader.inputs = table ? std::vector<Value*>{weight, node.input(1)} : std::vector<Value*>{node.input(0), weight};
  if (table) reader.attributes.emplace_back("axis", node.attr_int("gather_axis", 0));
  Node* made = graph.insert(std::move(reader), &node);
  if (!table && node.input(5) != nullptr) {
    NodeSpec add{"Add", {made->output(), node.input(5)}, {{output.name(), output.type()}}, {}, "", ""};
    made = graph.insert(std::move(add), &node);
  }
  const std::vector<Value*> old = node.inputs();
  replace_and_erase(graph, node, *made->output());
  for (Value* value : old) {
    if (value != nullptr && !value->erased() && constant(value) != nullptr) erase_if_unused(*value->graph(), *value);
  }
  return parts.bytes;
}

Node* ConvertBlockwiseForm::emit_product(Graph& graph, Node& reader, const StoredBlocks& weight,
                                         const Parts& parts) const {
  const Value& output = *reader.output();
  Value* bias = reader.is("Gemm") ? reader.input(2) : nullptr;
  // MatMulNBits takes a bias of exactly N numbers; anything else stays an Add.
  const bool inner_bias = bias != nullptr && bias->static_dims() == Dims{weight.rows};
  NodeSpec spec{"MatMulNBits",
                {reader.input(0), parts.codes, parts.scales, parts.zeros},
                {{output.name(), output.type()}},
                {},
                kMicrosoft,
                reader.name};
  if (inner_bias) spec.inputs.insert(spec.inputs.end(), {nullptr, bias});
  while (spec.inputs.back() == nullptr) spec.inputs.pop_back();
  spec.attributes.emplace_back("K", weight.cols);
  spec.attributes.emplace_back("N", weight.rows);
  spec.attributes.emplace_back("bits", std::int64_t{weight.bits});
  spec.attributes.emplace_back("block_size", weight.block);
  spec.attributes.emplace_back("accuracy_level", accuracy_level_);
  Node* made = graph.insert(std::move(spec), &reader);
  if (bias == nullptr || inner_bias) return made;
  NodeSpec add{"Add", {made->output(), bias}, {{output.name(), output.type()}}, {}, "", ""};
  return graph.insert(std::move(add), &reader);
}

Node* ConvertBlockwiseForm::emit_table(Graph& graph, Node& reader, const StoredBlocks& weight,
                                       const Parts& parts) const {
  const Value& output = *reader.output();
  NodeSpec spec{"GatherBlockQuantized",
                {parts.codes, reader.input(1), parts.scales},
                {{output.name(), output.type()}},
                {},
                kMicrosoft,
                reader.name};
  if (parts.zeros != nullptr) spec.inputs.push_back(parts.zeros);
  spec.attributes.emplace_back("bits", std::int64_t{weight.bits});
  spec.attributes.emplace_back("block_size", weight.block);
  spec.attributes.emplace_back("gather_axis", std::int64_t{0});
  spec.attributes.emplace_back("quantize_axis", std::int64_t{1});
  return graph.insert(std::move(spec), &reader);
}

std::int64_t ConvertBlockwiseForm::to_packed(Graph& graph, Node& node, const Match& match) {
  Node& reader = *match.consumer;
  const bool table = reader.is("Gather");
  const Parts parts = parts_of(graph, node, 0, match, table ? BlockLayout::kTable : BlockLayout::kPadded);
  Node* made =
      table ? emit_table(graph, reader, match.weight, parts) : emit_product(graph, reader, match.weight, parts);
  const std::vector<Value*> old = node.inputs();
  replace_and_erase(graph, reader, *made->output());  // the DequantizeLinear goes with its only reader
  for (Value* value : old) {
    if (value != nullptr && !value->erased()) erase_if_unused(*value->graph(), *value);
  }
  return parts.bytes;
}

}  // namespace

std::unique_ptr<Pass> make_convert_blockwise_form(const PassOptions& options) {
  return std::make_unique<ConvertBlockwiseForm>(options);
}

}  // namespace onnxfold
