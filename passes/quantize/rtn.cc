// MatMul(x, W), Gemm(x, W, c), Gather(T, i) => the same on W or T rounded to 4 or 8 bits in blocks.
//
// Conditions: W or T is constant, of rank 2, of a floating type. Lossy. Round to nearest (blockwise.h has the rule).
// form=matmulnbits: com.microsoft MatMulNBits and GatherBlockQuantized, which need no opset; form=dequantizelinear:
// standard DequantizeLinear in front of the unchanged operator, opset 21 (the model is raised when it is older).
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "formats/onnx/schema.h"
#include "ir/match.h"
#include "passes/pass.h"
#include "passes/quantize/blockwise.h"
#include "passes/quantize/packing.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kStandardOpset = 21;  // first with blocked DequantizeLinear and int4

// One weight in the graph and how its node reads it.
struct Target {
  Node* node = nullptr;
  Value* weight = nullptr;
  std::size_t input = 1;  // of the node
  BlockShape shape;
  bool table = false;  // Gather
};

// The initializers that stand for a weight in one layout.
struct Parts {
  Value* codes = nullptr;
  Value* scales = nullptr;
  Value* zeros = nullptr;
  std::int64_t bytes = 0;
};

bool quantizable_type(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

class Rtn final : public Pass {
 public:
  explicit Rtn(const PassOptions& options)
      : standard_(options.text("form") == "dequantizelinear"),
        gather_(options.flag("gather")),
        accuracy_level_(options.integer("accuracy-level")),
        min_elements_(options.integer("min-elements")),
        include_(options.patterns("include")),
        exclude_(options.patterns("exclude")) {
    format_.bits = static_cast<int>(options.integer("bits"));
    format_.block = options.integer("block");
    format_.symmetric = options.flag("symmetric");
  }

  Result<bool> run(Graph& graph, PassContext& context) override {
    if ((format_.block & (format_.block - 1)) != 0) {
      return fail(Code::kInvalidArgument, fmt::format("block={} is no power of two", format_.block));
    }
    if (standard_) OF_TRY(raise_opset(graph, context));
    std::vector<Target> targets;
    for (Node* node : graph.nodes()) {
      if (const auto target = consider(*node, context)) targets.push_back(*target);
    }
    for (const Target& target : targets) rewrite(graph, target, context);
    return !targets.empty() || raised_;
  }

 private:
  Status raise_opset(Graph& graph, PassContext& context) {
    if (graph.parent() != nullptr || graph.opset() >= kStandardOpset) return {};
    auto status = convert_opset(context.model(), kStandardOpset);
    if (!status) {
      return fail(Code::kUnsupported,
                  fmt::format("form=dequantizelinear needs opset 21, and the model cannot be raised: {}; "
                              "use form=matmulnbits",
                              status.error().message));
    }
    OF_TRY(infer_shapes(context.model()));
    raised_ = true;
    context.note("model", "opset raised to 21 for blocked DequantizeLinear");
    return {};
  }

  // What keeps a weight from being quantized, or the target. Nodes without constant weights are none of our business
  // unless a user would count them: MatMul, Gemm, Gather, Conv.
  std::optional<Target> consider(Node& node, PassContext& context) const;
  std::string refusal(const Target& target) const;
  bool wanted(const Target& target) const;
  void rewrite(Graph& graph, const Target& target, PassContext& context);
  Parts make_parts(Graph& graph, const Target& target);
  Value* add_part(Graph& graph, const std::string& name, DType dtype, Dims dims, DeferredFn make, Parts& parts);
  void emit_matmul(Graph& graph, const Target& target, const Parts& parts) const;
  void emit_gather(Graph& graph, const Target& target, const Parts& parts) const;
  void emit_standard(Graph& graph, const Target& target, const Parts& parts) const;
  NodeSpec replacement(const Target& target, std::string op, std::vector<Value*> inputs) const;

  BlockFormat format_;
  bool standard_;
  bool gather_;
  std::int64_t accuracy_level_;
  std::int64_t min_elements_;
  std::vector<std::string> include_, exclude_;
  bool raised_ = false;
  // Weights that several nodes read in the same way are stored once: (value, transposed, table, graph). A table and a
  // product need other shapes of the same numbers.
  std::map<std::tuple<const Value*, bool, bool, const Graph*>, Parts> made_;
};

bool matches_any(const std::vector<std::string>& patterns, const Target& target) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return glob_match(pattern, target.weight->name()) || glob_match(pattern, target.node->name);
  });
}

bool Rtn::wanted(const Target& target) const {
  return (include_.empty() || matches_any(include_, target)) && !matches_any(exclude_, target);
}

// Where a node of this kind keeps its weight.
std::optional<Target> weight_of(Node& node) {
  Target target;
  target.node = &node;
  if (node.is("Gather")) {
    target.table = true;
    target.input = 0;
  } else if (node.is("MatMul")) {
    // A constant on the left is a weight as well, though not one a block quantizer can take.
    if (constant(node.input(1)) == nullptr && constant(node.input(0)) != nullptr) target.input = 0;
  } else if (!node.is("Gemm") && !node.is("Conv") && !node.is("ConvTranspose")) {
    return {};
  }
  target.weight = node.input(target.input);
  const Tensor* tensor = constant(target.weight);
  if (target.table && (tensor == nullptr || tensor->rank() != 2 || !is_float(tensor->dtype()))) return {};
  if (target.weight == nullptr) return {};
  return target;
}

std::string Rtn::refusal(const Target& target) const {
  const Node& node = *target.node;
  const Tensor* tensor = constant(target.weight);
  if (tensor == nullptr) return "weight is not constant";
  if (node.is("Conv") || node.is("ConvTranspose")) return "convolution weights are not quantized in blocks";
  if (!quantizable_type(tensor->dtype())) return fmt::format("weight has type {}", name(tensor->dtype()));
  if (tensor->rank() != 2) return fmt::format("weight has rank {}, need 2", tensor->rank());
  if (!standard_ && tensor->dtype() == DType::kBFloat16) return "bfloat16 needs form=dequantizelinear";
  if (target.table && !gather_) return "gather=false";
  if (target.table && node.attr_int("axis", 0) != 0 && node.attr_int("axis", 0) != -2) return "gathers along columns";
  if (node.is("MatMul") && target.input == 0) return "weight is the left operand";
  if (node.is("Gemm")) {
    if (node.attr_int("transA", 0) != 0) return "transA is set";
    if (node.attr_float("alpha", 1) != 1 || (node.input(2) != nullptr && node.attr_float("beta", 1) != 1)) {
      return "alpha or beta is not 1";
    }
  }
  if (!wanted(target)) return "excluded by name";
  if (tensor->size() < min_elements_) return fmt::format("fewer than {} elements", min_elements_);
  if (tensor->size() == 0) return "weight is empty";
  if (target.table && !standard_ && tensor->dims()[1] * format_.bits % 8 != 0) return "a row does not fill whole bytes";
  return {};
}

std::optional<Target> Rtn::consider(Node& node, PassContext& context) const {
  auto target = weight_of(node);
  if (!target) return {};
  const Tensor* tensor = constant(target->weight);
  const std::string why = refusal(*target);
  if (!why.empty()) {
    context.skipped(node.label(), why, tensor != nullptr ? tensor->nbytes() : 0);
    return {};
  }
  const bool by_rows = target->table || node.attr_int("transB", 0) != 0;
  const Dims& dims = tensor->dims();
  target->shape = by_rows ? BlockShape{dims[0], dims[1], false} : BlockShape{dims[1], dims[0], true};
  return target;
}

Value* Rtn::add_part(Graph& graph, const std::string& name, DType dtype, Dims dims, DeferredFn make, Parts& parts) {
  // Errors of the deferred work name the weight, since the writer that meets them does not know it.
  Tensor tensor = Tensor::deferred(dtype, std::move(dims), std::move(make));
  parts.bytes += tensor.nbytes();
  return add_constant(graph, std::move(tensor), name);
}

Parts Rtn::make_parts(Graph& graph, const Target& target) {
  const auto key = std::make_tuple(static_cast<const Value*>(target.weight), target.shape.transposed, target.table,
                                   static_cast<const Graph*>(&graph));
  if (const auto found = made_.find(key); found != made_.end()) return found->second;
  const Tensor weight = *constant(target.weight);
  const std::string name = target.weight->name();
  const int bits = format_.bits;
  const bool has_zeros = !format_.symmetric;
  auto lazy = std::make_shared<LazyBlocks>(weight, target.shape, format_, weight.dtype(), has_zeros ? 3 : 2);
  const auto part = [lazy, name](int number, auto pack) -> DeferredFn {
    return [lazy, name, number, pack]() -> Result<Buffer> {
      auto codes = lazy->take(number);
      if (!codes) return fail(codes.error().in(fmt::format("weight '{}'", name)));
      return pack(**codes);
    };
  };
  const std::int64_t rows = target.shape.rows;
  const std::int64_t cols = target.shape.cols;
  const std::int64_t blocks = lazy->blocks();
  Parts parts;
  if (standard_) {
    const bool across = target.shape.transposed;  // blocks run along axis 0 of the stored matrix
    const bool is_signed = format_.symmetric;
    const DType type =
        bits == 8 ? (is_signed ? DType::kInt8 : DType::kUint8) : (is_signed ? DType::kInt4 : DType::kUint4);
    // A Gemm with transB is stored as the runtime fuses it: [K, N], blocks on axis 0.
    const bool store_across = across || !target.table;
    const Dims code_dims = store_across ? Dims{cols, rows} : Dims{rows, cols};
    const Dims scale_dims = store_across ? Dims{blocks, rows} : Dims{rows, blocks};
    parts.codes = add_part(
        graph, fmt::format("{}_DQ_Q{}", name, bits), type, code_dims,
        part(0, [=](const BlockCodes& c) -> Result<Buffer> { return pack_standard(c, bits, store_across, is_signed); }),
        parts);
    parts.scales =
        add_part(graph, name + "_DQ_scales", weight.dtype(), scale_dims,
                 part(1, [=](const BlockCodes& c) { return pack_scales(c, weight.dtype(), store_across); }), parts);
    if (has_zeros) {
      parts.zeros = add_part(
          graph, name + "_DQ_zero_points", type, scale_dims,
          part(2, [=](const BlockCodes& c) -> Result<Buffer> { return pack_standard_zeros(c, bits, store_across); }),
          parts);
    }
  } else {
    const bool table = target.table;
    const Dims code_dims = table ? Dims{rows, cols * bits / 8} : Dims{rows, blocks, format_.block * bits / 8};
    parts.codes =
        add_part(graph, fmt::format("{}_Q{}", name, bits), DType::kUint8, code_dims,
                 part(0, [=](const BlockCodes& c) -> Result<Buffer> { return pack_rows(c, bits, !table); }), parts);
    parts.scales = add_part(graph, name + "_scales", weight.dtype(), {rows, blocks},
                            part(1, [=](const BlockCodes& c) { return pack_scales(c, weight.dtype(), false); }), parts);
    if (has_zeros) {
      parts.zeros =
          add_part(graph, name + "_zero_points", DType::kUint8, {rows, (blocks * bits + 7) / 8},
                   part(2, [=](const BlockCodes& c) -> Result<Buffer> { return pack_zero_rows(c, bits); }), parts);
    }
  }
  made_[key] = parts;
  return parts;
}

NodeSpec Rtn::replacement(const Target& target, std::string op, std::vector<Value*> inputs) const {
  const Value& output = *target.node->output();
  NodeSpec spec{std::move(op), std::move(inputs), {{output.name(), output.type()}}, {}, "", target.node->name};
  return spec;
}

void Rtn::emit_matmul(Graph& graph, const Target& target, const Parts& parts) const {
  Node& node = *target.node;
  Value* bias = node.is("Gemm") ? node.input(2) : nullptr;
  // MatMulNBits takes a bias of exactly N numbers; anything else stays an Add.
  const Tensor* bias_tensor = constant(bias);
  const bool inner_bias = bias_tensor != nullptr && bias_tensor->dims() == Dims{target.shape.rows};
  std::vector<Value*> inputs = {node.input(0), parts.codes, parts.scales, parts.zeros};
  if (inner_bias) inputs.insert(inputs.end(), {nullptr, bias});
  while (inputs.back() == nullptr) inputs.pop_back();
  NodeSpec spec = replacement(target, "MatMulNBits", std::move(inputs));
  spec.domain = "com.microsoft";
  spec.attributes.emplace_back("K", target.shape.cols);
  spec.attributes.emplace_back("N", target.shape.rows);
  spec.attributes.emplace_back("bits", std::int64_t{format_.bits});
  spec.attributes.emplace_back("block_size", format_.block);
  spec.attributes.emplace_back("accuracy_level", accuracy_level_);
  Node* made = graph.insert(std::move(spec), &node);
  if (bias != nullptr && !inner_bias) {
    NodeSpec add = replacement(target, "Add", {made->output(), bias});
    made = graph.insert(std::move(add), &node);
  }
  replace_and_erase(graph, node, *made->output());
}

void Rtn::emit_gather(Graph& graph, const Target& target, const Parts& parts) const {
  Node& node = *target.node;
  std::vector<Value*> inputs = {parts.codes, node.input(1), parts.scales};
  if (parts.zeros != nullptr) inputs.push_back(parts.zeros);
  NodeSpec spec = replacement(target, "GatherBlockQuantized", std::move(inputs));
  spec.domain = "com.microsoft";
  spec.attributes.emplace_back("bits", std::int64_t{format_.bits});
  spec.attributes.emplace_back("block_size", format_.block);
  spec.attributes.emplace_back("gather_axis", std::int64_t{0});
  spec.attributes.emplace_back("quantize_axis", std::int64_t{1});
  Node* made = graph.insert(std::move(spec), &node);
  replace_and_erase(graph, node, *made->output());
}

void Rtn::emit_standard(Graph& graph, const Target& target, const Parts& parts) const {
  Node& node = *target.node;
  const Tensor& weight = *constant(target.weight);
  const bool turned = node.is("Gemm") && !target.shape.transposed;  // transB: the weight is now stored [K, N]
  const Dims dims = turned ? Dims{target.shape.cols, target.shape.rows} : weight.dims();
  std::vector<Value*> inputs = {parts.codes, parts.scales};
  if (parts.zeros != nullptr) inputs.push_back(parts.zeros);
  NodeSpec spec{"DequantizeLinear",
                std::move(inputs),
                {{target.weight->name() + "_DQ", Type::tensor(weight.dtype(), dims)}},
                {},
                "",
                ""};
  spec.attributes.emplace_back("axis", std::int64_t{target.table ? 1 : 0});
  spec.attributes.emplace_back("block_size", format_.block);
  Node* made = graph.insert(std::move(spec), &node);
  if (turned) node.remove_attribute("transB");
  graph.set_input(node, target.input, made->output());
}

void Rtn::rewrite(Graph& graph, const Target& target, PassContext& context) {
  const std::int64_t before = constant(target.weight)->nbytes();
  const std::string label = target.node->label();
  Value* weight = target.weight;
  const Parts parts = make_parts(graph, target);
  if (standard_) {
    emit_standard(graph, target, parts);
  } else if (target.table) {
    emit_gather(graph, target, parts);
  } else {
    emit_matmul(graph, target, parts);
  }
  context.applied(label, fmt::format("{} bits, blocks of {}", format_.bits, format_.block), before, parts.bytes);
  if (weight->erased()) return;
  if (weight->uses().empty() && !weight->is_graph_input()) {
    Node* producer = weight->producer();
    if (producer != nullptr) {
      producer->graph()->erase(*producer);
    } else {
      weight->graph()->erase(*weight);
    }
  }
}

}  // namespace

std::unique_ptr<Pass> make_rtn(const PassOptions& options) { return std::make_unique<Rtn>(options); }

}  // namespace onnxfold
