#include "passes/quantize/weight_target.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "ir/match.h"
#include "passes/quantize/weight_source.h"

namespace onnxfold {
namespace {

constexpr const char* kMicrosoft = "com.microsoft";

// Does each of weight_inputs() count?
bool several_weights(const Node& node) {
  return node.is("LSTM") || node.is("GRU") || node.is("RNN") || node.is("EmbedLayerNormalization", kMicrosoft) ||
         node.is("MoE", kMicrosoft);
}

// A product that MatMulNBits can take the place of.
bool multiplies(const Node& node) { return node.is("MatMul") || node.is("Gemm") || node.is("FusedMatMul", kMicrosoft); }

// `dims` seen as blocks along `axis`.
BlockShape along(const Dims& dims, std::int64_t axis) {
  BlockShape shape{1, 1, 1};
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    if (at == axis) shape.cols = dims[i];
    if (at != axis) shape.rows *= dims[i];
    if (at > axis) shape.inner *= dims[i];
  }
  return shape;
}

class Finder {
 public:
  explicit Finder(const WeightOptions& options) : options_(options) {}

  // What a node reads at `input`; none when that is no constant of floating-point numbers.
  std::optional<WeightTarget> weight_at(Node& node, std::size_t input) const;
  // What keeps the weight from being quantized; empty: nothing.
  std::string refusal(const WeightTarget& target) const;

 private:
  void lay_out(WeightTarget& target, bool transposed) const;
  std::string product_refusal(const WeightTarget& target) const;
  std::string other_refusal(const WeightTarget& target) const;
  bool wanted(const WeightTarget& target) const;
  const FormatRule* rule_of(const WeightTarget& target) const;
  static bool matches(const std::string& pattern, const WeightTarget& target) {
    return glob_match(pattern, target.weight->name()) || glob_match(pattern, target.node->name);
  }
  static bool matches_any(const std::vector<std::string>& patterns, const WeightTarget& target) {
    return std::any_of(patterns.begin(), patterns.end(),
                       [&](const std::string& pattern) { return matches(pattern, target); });
  }

  const WeightOptions& options_;
};

bool Finder::wanted(const WeightTarget& target) const {
  return (options_.include.empty() || matches_any(options_.include, target)) && !matches_any(options_.exclude, target);
}

const FormatRule* Finder::rule_of(const WeightTarget& target) const {
  const auto found = std::find_if(options_.rules.begin(), options_.rules.end(),
                                  [&](const FormatRule& rule) { return matches(rule.pattern, target); });
  return found == options_.rules.end() ? nullptr : &*found;
}

// The last axis of input `input` that an Einsum sums over; its last axis when it says none in plain letters.
std::int64_t einsum_axis(const Node& node, std::size_t input, std::int64_t rank) {
  const std::string equation = node.attr_string("equation", "");
  const std::size_t arrow = equation.find("->");
  if (arrow == std::string::npos || equation.find("...") != std::string::npos) return rank - 1;
  std::string terms[2], result;
  std::size_t term = 0;
  for (std::size_t i = 0; i < equation.size(); ++i) {
    if (equation[i] == ',') ++term;
    if (std::isalpha(static_cast<unsigned char>(equation[i])) == 0) continue;
    (i > arrow ? result : terms[std::min<std::size_t>(term, 1)]) += equation[i];
  }
  const std::string& letters = terms[input];
  for (std::size_t i = letters.size(); i-- > 0;) {
    if (result.find(letters[i]) == std::string::npos) return std::min(static_cast<std::int64_t>(i), rank - 1);
  }
  return rank - 1;
}

// The axis that the operator sums over; of convolutions the channels of one group. ConvTranspose sums over axis 0.
std::int64_t summed_axis(const WeightTarget& target) {
  const Node& node = *target.node;
  const auto rank = static_cast<std::int64_t>(target.dims.size());
  if (node.is("Conv") || node.is("FusedConv", kMicrosoft)) return 1;
  if (node.is("ConvTranspose")) return 0;
  if (node.is("Einsum")) return einsum_axis(node, target.input, rank);
  if (node.is("Gemm") && target.input == 0) return node.attr_int("transA", 0) != 0 ? 0 : 1;
  if (node.is("FusedMatMul", kMicrosoft) && target.input == 0 && node.attr_int("transA", 0) != 0) {
    return std::max<std::int64_t>(rank - 2, 0);
  }
  if (node.is("Attention", kMicrosoft) || node.is("PackedAttention", kMicrosoft)) return 0;
  const bool right = target.input == 1 && (multiplies(node) || node.is("FusedGemm", kMicrosoft));
  return right && node.attr_int("transB", 0) == 0 ? std::max<std::int64_t>(rank - 2, 0) : rank - 1;
}

void Finder::lay_out(WeightTarget& target, bool transposed) const {
  const Node& node = *target.node;
  const Dims& dims = constant(target.weight)->dims();
  target.dims = transposed ? Dims{dims[1], dims[0]} : dims;
  const FormatRule* rule = rule_of(target);
  target.format = rule != nullptr && !rule->keep ? rule->apply(options_.format) : options_.format;
  const bool product = multiplies(node) && target.input == 1;
  if (dims.size() == 2 && (product || node.is("Gather"))) {
    target.use = node.is("Gather") ? WeightUse::kTable : WeightUse::kProduct;
    const bool by_rows = target.table() || (node.attr_int("transB", 0) != 0) != transposed;
    target.shape = by_rows ? BlockShape{dims[0], dims[1], 1} : BlockShape{dims[1], dims[0], dims[1]};
    // Neither tables nor the standard form have zero points that are no codes.
    if (target.table()) target.format.float_zeros = false;
    return;
  }
  target.use = WeightUse::kOther;
  target.format.float_zeros = false;
  if (options_.other_bits != 0 && rule == nullptr) target.format.bits = options_.other_bits;
  target.axis = summed_axis(target);
  target.shape = along(dims, target.axis);
  // Without blocks DequantizeLinear has one scale for each index of one axis: the first, for what lies row by row.
  // Convolutions with few channels a group have their blocks that way as well.
  const bool plain = node.is("Conv") || node.is("FusedConv", kMicrosoft);
  const bool convolution = plain || node.is("ConvTranspose");
  if (target.format.block != 0 && !(plain && dims.size() > 2 && dims[1] < target.format.block)) return;
  if (convolution || dims.size() == 2) {
    target.format.block = 0;
    target.axis = 0;
    target.shape = {dims[0], dims[0] == 0 ? 0 : constant(target.weight)->size() / dims[0], 1};
  } else {
    target.format.block = operator_block(target.format, target.shape.cols);
  }
}

std::optional<WeightTarget> Finder::weight_at(Node& node, std::size_t input) const {
  const WeightSource source = weight_source(node.input(input));
  if (source.weight == nullptr || !is_float(constant(source.weight)->dtype())) return {};
  WeightTarget target;
  target.node = &node;
  target.input = input;
  target.weight = source.weight;
  target.type = node.input(input)->dtype();
  if (node.is("Gather") && (constant(source.weight)->rank() < 2 || source.transposed)) return {};
  lay_out(target, source.transposed);
  return target;
}

std::string Finder::product_refusal(const WeightTarget& target) const {
  const Node& node = *target.node;
  if (node.attr_int("transBatchA", 0) != 0 || node.attr_int("transBatchB", 0) != 0) return "transposes batches";
  if (options_.standard) {
    const bool torn =
        target.use == WeightUse::kProduct && target.format.stored_bits() == 2 && target.shape.rows % 4 != 0;
    return torn ? std::string(kTornFusion) : "";
  }
  if (target.type == DType::kBFloat16) return "bfloat16 needs form=dequantizelinear";
  if (target.type == DType::kFloat64) return "double needs form=dequantizelinear";
  if (target.table() && target.shape.cols * target.format.stored_bits() % 8 != 0) {
    return "a row does not fill whole bytes";
  }
  if (node.attr_int("transA", 0) != 0) return "transA is set (form=dequantizelinear takes it)";
  if (!node.is("Gemm")) return {};  // alpha of FusedMatMul becomes a Mul
  if (node.attr_float("alpha", 1) != 1 || (node.input(2) != nullptr && node.attr_float("beta", 1) != 1)) {
    return "alpha or beta is not 1 (form=dequantizelinear takes it)";
  }
  return {};
}

std::string Finder::other_refusal(const WeightTarget& target) const {
  const Node& node = *target.node;
  const std::string what =
      multiplies(node)
          ? (target.input == 0 ? "weight is the left operand" : fmt::format("weight has rank {}", target.dims.size()))
          : fmt::format("weights of {} have no fast low-bit form", node.op_type());
  if (options_.other_bits != 0) return {};
  // Smaller is not all that int8 can do for a convolution.
  const char* faster = node.is("Conv") ? ", recipes int8-static and int8-dynamic compute with int8" : "";
  return what + "; others=8 stores it behind DequantizeLinear" + faster;
}

std::string Finder::refusal(const WeightTarget& target) const {
  const Node& node = *target.node;
  const Tensor& tensor = *constant(target.weight);
  if (!quantizable_type(tensor.dtype())) return fmt::format("weight has type {}", name(tensor.dtype()));
  if (!quantizable_type(target.type)) return fmt::format("weight is read as {}", name(target.type));
  if (tensor.rank() < 2) return fmt::format("weight has rank {}, need 2", tensor.rank());
  if (target.table() && !options_.gather) return "gather=false";
  if (target.table() && node.attr_int("axis", 0) != 0 && node.attr_int("axis", 0) != -2) return "gathers along columns";
  std::string why = target.use == WeightUse::kOther ? other_refusal(target) : product_refusal(target);
  if (!why.empty()) return why;
  if (!wanted(target)) return "excluded by name";
  if (const FormatRule* rule = rule_of(target); rule != nullptr && rule->keep)
    return "kept in floating point by formats";
  if (tensor.size() < options_.min_elements) return fmt::format("fewer than {} elements", options_.min_elements);
  if (tensor.size() == 0) return "weight is empty";
  if (quantized_bytes(target, options_) >= tensor.nbytes()) {
    return fmt::format("would not get smaller: rows of {} in blocks of {}", target.shape.cols,
                       operator_block(target.format, target.shape.cols));
  }
  return {};
}

}  // namespace

Status WeightOptions::check() const {
  if (bad_rules) return fail(*bad_rules);
  if ((format.block & (format.block - 1)) != 0) {
    return fail(Code::kInvalidArgument, fmt::format("block={} is no power of two", format.block));
  }
  if (format.scales == ScaleForm::kInt8 && format.block == 0) {
    return fail(Code::kInvalidArgument, "scales=int8 shares a number between the blocks of a row: give a block");
  }
  for (const FormatRule& rule : rules) {
    if (!rule.keep && rule.apply(format).block == 0 && format.scales == ScaleForm::kInt8) {
      return fail(Code::kInvalidArgument, "scales=int8 shares a number between the blocks of a row: give a block");
    }
  }
  if (!format.float_zeros) return {};
  if (standard) return fail(Code::kInvalidArgument, "zero-points=float needs form=matmulnbits");
  if (format.bits == 8) return fail(Code::kInvalidArgument, "zero-points=float needs 2, 3 or 4 bits");
  if (format.symmetric) return fail(Code::kInvalidArgument, "zero-points=float needs symmetric=false");
  return {};
}

std::int64_t accuracy_level_option(const PassOptions& options) {
  return options.text("accuracy-level") == "auto" ? kAutomaticLevel : options.integer("accuracy-level");
}

WeightOptions weight_options(const PassOptions& options) {
  WeightOptions made;
  made.format.bits = static_cast<int>(options.integer("bits"));
  made.format.block = options.text("block") == "channel" ? 0 : options.integer("block");
  const bool has_symmetric = options.all().contains("symmetric");
  made.format.symmetric = has_symmetric && options.flag("symmetric");
  made.format.float_zeros = options.text("zero-points") == "float";
  const std::string& scales = options.text("scales");
  if (scales == "float16") made.format.scales = ScaleForm::kFloat16;
  if (scales == "int8") made.format.scales = ScaleForm::kInt8;
  if (scales == "power-of-two") made.format.scales = ScaleForm::kPowerOfTwo;
  made.standard = options.text("form") == "dequantizelinear";
  made.gather = options.flag("gather");
  const std::string& others = options.text("others");
  made.other_bits = others == "bits" ? made.format.bits : others == "8" ? 8 : 0;
  made.accuracy_level = accuracy_level_option(options);
  made.min_elements = options.integer("min-elements");
  made.include = options.patterns("include");
  made.exclude = options.patterns("exclude");
  auto rules = parse_format_rules(options.patterns("formats"));
  if (rules) {
    made.rules = std::move(*rules);
  } else {
    made.bad_rules = rules.error();
  }
  return made;
}

std::int64_t operator_block(const BlockFormat& format, std::int64_t cols) {
  if (format.block != 0) return format.block;
  for (const std::int64_t block : {128, 64, 32}) {
    if (cols % block == 0) return block;
  }
  return 16;
}

std::int64_t quantized_bytes(const WeightTarget& target, const WeightOptions& options) {
  const BlockFormat& format = target.format;
  const std::int64_t rows = target.shape.rows, cols = target.shape.cols, bits = format.stored_bits();
  const std::int64_t length = format.length(cols), blocks = (cols + length - 1) / length;
  const std::int64_t block = operator_block(format, cols);
  const bool padded = !target.standard(options) && !target.table();
  std::int64_t bytes = ((padded ? rows * ((cols + block - 1) / block) * block : rows * cols) * bits + 7) / 8;
  std::int64_t scale_bits = bit_width(target.scale_type());
  if (format.scales == ScaleForm::kFloat16) scale_bits = 16;
  if (format.scales == ScaleForm::kPowerOfTwo || format.scales == ScaleForm::kInt8) scale_bits = 8;
  bytes += rows * blocks * scale_bits / 8;
  if (format.scales == ScaleForm::kInt8) bytes += rows * ((blocks + scale_group(blocks) - 1) / scale_group(blocks)) * 4;
  if (format.symmetric) return bytes;
  if (format.float_zeros) return bytes + rows * blocks * bit_width(target.scale_type()) / 8;
  return bytes + rows * ((blocks * bits + 7) / 8);
}

std::int64_t opset_needed(const WeightTarget& target, const WeightOptions& options) {
  if (!target.standard(options)) return 0;
  if (target.format.stored_bits() == 2) return 25;
  const bool plain = target.format.block == 0 && target.format.bits == 8 && target.scale_type() == DType::kFloat32;
  return plain ? 13 : 21;
}

std::vector<WeightTarget> find_weight_targets(const Graph& graph, const WeightOptions& options, PassContext& context) {
  const Finder finder(options);
  std::vector<WeightTarget> targets;
  for (Node* node : graph.nodes()) {
    if (const std::string already = quantized_already(*node); !already.empty()) {
      context.skipped(node->label(), already);
      continue;
    }
    const std::vector<std::size_t> inputs = weight_inputs(*node);
    if (const std::string why = unread_weight(*node, context.model(), options.min_elements); !why.empty()) {
      context.skipped(node->label(), why);
    }
    if (const auto held = held_weight(*node, options.min_elements)) {
      context.skipped(node->label(),
                      held->moved ? kMovedWeight : fmt::format("{} has no low-bit form", node->op_type()), held->bytes);
    }
    for (const std::size_t input : inputs) {
      const auto target = finder.weight_at(*node, input);
      if (!target) continue;
      const std::string why = finder.refusal(*target);
      if (why.empty()) {
        targets.push_back(*target);
      } else {
        context.skipped(node->label(), why, constant(target->weight)->nbytes());
      }
      if (!several_weights(*node)) break;
    }
  }
  return targets;
}

}  // namespace onnxfold
