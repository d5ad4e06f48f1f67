#include "passes/quantize/weight_target.h"

#include <fmt/format.h>

#include <algorithm>

#include "ir/match.h"

namespace onnxfold {
namespace {

bool quantizable_type(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

// The constant behind `value`, and whether the way to it transposes.
struct Source {
  Value* weight = nullptr;
  bool transposed = false;
};

bool swaps_axes(const Node& transpose) {
  const auto perm = transpose.attr_ints("perm");
  return !perm || *perm == std::vector<std::int64_t>{1, 0};
}

Source source_of(Value* value) {
  Source source;
  while (value != nullptr) {
    if (constant(value) != nullptr) {
      source.weight = value;
      return source;
    }
    const Node* node = value->producer();
    if (node == nullptr || node->graph() != value->graph() || value->rank() != 2) return {};
    if (node->is("Transpose") && swaps_axes(*node)) {
      source.transposed = !source.transposed;
    } else if (!node->is("Identity") && !(node->is("Cast") && quantizable_type(value->dtype()))) {
      return {};
    }
    value = node->input(0);
  }
  return {};
}

class Finder {
 public:
  explicit Finder(const WeightOptions& options) : options_(options) {}

  // Where a node of this kind keeps its weight; none when users would not count it among the weights.
  std::optional<WeightTarget> weight_of(Node& node) const;
  // What keeps the weight from being quantized; empty: nothing.
  std::string refusal(const WeightTarget& target) const;

 private:
  std::string product_refusal(const Node& node) const;
  bool wanted(const WeightTarget& target) const;
  static bool matches_any(const std::vector<std::string>& patterns, const WeightTarget& target) {
    return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
      return glob_match(pattern, target.weight->name()) || glob_match(pattern, target.node->name);
    });
  }

  const WeightOptions& options_;
};

bool Finder::wanted(const WeightTarget& target) const {
  return (options_.include.empty() || matches_any(options_.include, target)) && !matches_any(options_.exclude, target);
}

std::optional<WeightTarget> Finder::weight_of(Node& node) const {
  WeightTarget target;
  target.node = &node;
  target.table = node.is("Gather");
  if (target.table) {
    target.input = 0;
  } else if (!node.is("MatMul") && !node.is("Gemm") && !node.is("Conv") && !node.is("ConvTranspose")) {
    return {};
  }
  Source source = source_of(node.input(target.input));
  if (source.weight == nullptr && node.is("MatMul")) {
    // A constant on the left is a weight as well, though not one a block quantizer can take.
    target.input = 0;
    source = source_of(node.input(0));
  }
  if (source.weight == nullptr) return {};
  target.weight = source.weight;
  target.type = node.input(target.input)->dtype();
  const Tensor& tensor = *constant(source.weight);
  if (target.table && (tensor.rank() != 2 || !is_float(tensor.dtype()) || source.transposed)) return {};
  if (tensor.rank() == 2) {
    const Dims& dims = tensor.dims();
    const bool by_rows = target.table || (node.attr_int("transB", 0) != 0) != source.transposed;
    target.shape = by_rows ? BlockShape{dims[0], dims[1], false} : BlockShape{dims[1], dims[0], true};
  }
  return target;
}

std::string Finder::product_refusal(const Node& node) const {
  if (options_.standard || !node.is("Gemm")) return {};
  if (node.attr_int("transA", 0) != 0) return "transA is set (form=dequantizelinear takes it)";
  if (node.attr_float("alpha", 1) != 1 || (node.input(2) != nullptr && node.attr_float("beta", 1) != 1)) {
    return "alpha or beta is not 1 (form=dequantizelinear takes it)";
  }
  return {};
}

std::string Finder::refusal(const WeightTarget& target) const {
  const Node& node = *target.node;
  const Tensor& tensor = *constant(target.weight);
  if (node.is("Conv") || node.is("ConvTranspose")) return "convolution weights are not quantized in blocks";
  if (!quantizable_type(tensor.dtype())) return fmt::format("weight has type {}", name(tensor.dtype()));
  if (!quantizable_type(target.type)) return fmt::format("weight is read as {}", name(target.type));
  if (tensor.rank() != 2) return fmt::format("weight has rank {}, need 2", tensor.rank());
  if (!options_.standard && target.type == DType::kBFloat16) return "bfloat16 needs form=dequantizelinear";
  if (target.table && !options_.gather) return "gather=false";
  if (target.table && node.attr_int("axis", 0) != 0 && node.attr_int("axis", 0) != -2) return "gathers along columns";
  if (node.is("MatMul") && target.input == 0) return "weight is the left operand";
  if (std::string why = product_refusal(node); !why.empty()) return why;
  if (!wanted(target)) return "excluded by name";
  if (tensor.size() < options_.min_elements) return fmt::format("fewer than {} elements", options_.min_elements);
  if (tensor.size() == 0) return "weight is empty";
  if (target.table && !options_.standard && tensor.dims()[1] * options_.format.bits % 8 != 0) {
    return "a row does not fill whole bytes";
  }
  if (quantized_bytes(target, options_) >= tensor.nbytes()) {
    return fmt::format("would not get smaller: rows of {} in blocks of {}", target.shape.cols, options_.format.block);
  }
  return {};
}

}  // namespace

WeightOptions weight_options(const PassOptions& options) {
  WeightOptions made;
  made.format.bits = static_cast<int>(options.integer("bits"));
  made.format.block = options.integer("block");
  made.format.symmetric = options.flag("symmetric");
  made.standard = options.text("form") == "dequantizelinear";
  made.gather = options.flag("gather");
  made.accuracy_level = options.integer("accuracy-level");
  made.min_elements = options.integer("min-elements");
  made.include = options.patterns("include");
  made.exclude = options.patterns("exclude");
  return made;
}

std::int64_t quantized_bytes(const WeightTarget& target, const WeightOptions& options) {
  const std::int64_t rows = target.shape.rows, cols = target.shape.cols;
  const std::int64_t block = options.format.block, bits = options.format.bits, blocks = (cols + block - 1) / block;
  const bool padded = !options.standard && !target.table;
  std::int64_t bytes = ((padded ? rows * blocks * block : rows * cols) * bits + 7) / 8;
  bytes += rows * blocks * bit_width(target.type) / 8;
  if (!options.format.symmetric) bytes += rows * ((blocks * bits + 7) / 8);
  return bytes;
}

std::vector<WeightTarget> find_weight_targets(const Graph& graph, const WeightOptions& options, PassContext& context) {
  const Finder finder(options);
  std::vector<WeightTarget> targets;
  for (Node* node : graph.nodes()) {
    auto target = finder.weight_of(*node);
    if (!target) continue;
    const std::string why = finder.refusal(*target);
    if (why.empty()) {
      targets.push_back(*target);
    } else {
      context.skipped(node->label(), why, constant(target->weight)->nbytes());
    }
  }
  return targets;
}

}  // namespace onnxfold
