#include "passes/quantize/product_kernel.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string_view>
#include <vector>

#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kManyRows = 32;   // where decoding a weight once for all rows begins to pay
constexpr std::int64_t kNarrow = 256;    // below so many columns rounding the activations costs more than it saves,
constexpr std::int64_t kNarrowRows = 8;  // from so many rows on
constexpr std::int64_t kPositions = 64;  // assumed where a model leaves the length of a sequence open

bool is_one_of(const Node& node, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), node.op_type()) != names.end();
}

// An input of numbers with positions, which a step of a decoder hands to the next one.
bool is_state(const Value& value) {
  return value.is_graph_input() && is_float(value.dtype()) && value.rank().value_or(0) >= 3;
}

bool reads_state(const Node& node) {
  for (const Value* input : node.inputs()) {
    if (input != nullptr && is_state(*input)) return true;
  }
  for (const Graph* body : node.subgraphs()) {
    for (const Node* inner : body->nodes()) {
      if (reads_state(*inner)) return true;
    }
  }
  return false;
}

// Does `value` hold a state that was moved only, and lengthened by `grown`?
bool is_grown_state(const Value* value, bool grown, int depth) {
  constexpr int kDeepest = 12;
  if (value == nullptr || depth > kDeepest) return false;
  if (is_state(*value)) return grown;
  const Node* node = value->producer();
  if (node == nullptr) return false;
  if (is_one_of(*node, {"If", "TensorScatter"})) return reads_state(*node);
  if (is_one_of(*node, {"Attention", "GroupQueryAttention", "MultiHeadAttention", "DecoderMaskedMultiHeadAttention"})) {
    return value->output_index() > 0 && reads_state(*node);
  }
  const bool grows = is_one_of(*node, {"Concat", "ScatterND", "ScatterElements"});
  if (!grows && !is_one_of(*node, {"Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Gather",
                                   "Slice", "Split"})) {
    return false;
  }
  const std::size_t operands = node->is("Concat") ? node->inputs().size() : 1;
  for (std::size_t i = 0; i < operands; ++i) {
    if (is_grown_state(node->input(i), grown || grows, depth + 1)) return true;
  }
  return false;
}

std::int64_t rows_of(const std::vector<Dim>& shape, std::size_t columns, bool one_position) {
  std::int64_t rows = 1;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i == columns) continue;
    const Dim& dim = shape[i];
    if (dim.known()) {
      rows *= std::max<std::int64_t>(1, *dim.value);
    } else if (i > 0 && !one_position) {
      rows *= kPositions;
    }
  }
  return rows;
}

// The last dimension stays: positions became rows, and not channels and places columns. Where it is not known, three
// dimensions are taken for samples, positions and columns.
bool same_columns(const Node& flattening) {
  const auto &before = flattening.input(0)->type().shape, &after = flattening.output()->type().shape;
  if (!before || !after || before->empty() || after->empty()) return false;
  if (!before->back().known() || !after->back().known()) return before->size() == 3;
  return *before->back().value == *after->back().value;
}

// What a matrix of an open number of rows was before positions were flattened into its rows; null: they were not.
const Value* before_flattening(const Value& matrix) {
  constexpr int kFarthest = 8;
  const Value* value = &matrix;
  for (int i = 0; i < kFarthest; ++i) {
    const Node* node = value->producer();
    if (node == nullptr || node->input(0) == nullptr) return nullptr;
    const int rank = node->input(0)->rank().value_or(0);
    if (rank > 2) return is_one_of(*node, {"Reshape", "Flatten"}) && same_columns(*node) ? node->input(0) : nullptr;
    if (rank != 2) return nullptr;
    value = node->input(0);
  }
  return nullptr;
}

// 0 where nothing is known of the shape.
std::int64_t rows_read(const Node& product, bool steps) {
  const Value& input = *product.input(0);
  const auto& shape = input.type().shape;
  if (!shape) return 0;
  if (shape->empty()) return 1;
  if (product.attr_int("transA", 0) != 0) return rows_of(*shape, 0, true);
  if (shape->size() == 2 && !(*shape)[0].known()) {
    const Value* source = before_flattening(input);
    if (source != nullptr && source->type().shape) {
      return rows_of(*source->type().shape, source->type().shape->size() - 1, steps);
    }
  }
  return rows_of(*shape, shape->size() - 1, steps);
}

// Columns of the left operand, as the right one says; the largest number where it does not.
std::int64_t summed(const Node& product) {
  const auto dims = product.input(1)->static_dims();
  if (!dims || dims->size() < 2) return std::numeric_limits<std::int64_t>::max();
  const bool turned = product.attr_int("transB", 0) != 0;
  return (*dims)[dims->size() - (turned ? 1 : 2)];
}

bool many_rows(const Node& product) {
  return expected_rows(product) >= (summed(product) < kNarrow ? kNarrowRows : kManyRows);
}

// ONNX Runtime 1.32 does not make MatMulNBits of DequantizeLinear and a product in front of Relu or Clip: it takes
// these for a part of the quantized operator.
bool before_clipping(const Node& product) {
  const Value* output = product.output();
  if (output == nullptr || output->uses().size() != 1) return false;
  const Node* reader = output->uses().front().node;
  if (reader == nullptr || !(reader->is("Relu") || reader->is("Clip"))) return false;
  const auto& uses = reader->output()->uses();
  return !uses.empty() && uses.front().node != nullptr;
}

}  // namespace

bool decodes_in_steps(const Graph& graph) {
  const Graph* root = &graph;
  while (root->parent() != nullptr) root = root->parent();
  const auto& outputs = root->outputs();
  return std::any_of(outputs.begin(), outputs.end(),
                     [](const Value* output) { return is_grown_state(output, false, 0); });
}

std::int64_t expected_rows(const Node& product) {
  const bool steps = decodes_in_steps(*product.graph());
  if (const std::int64_t rows = rows_read(product, steps)) return rows;
  std::int64_t most = 1;
  for (const Node* other : product.graph()->nodes()) {
    const bool weighted = other->is("MatMulNBits", "com.microsoft") ||
                          ((other->is("MatMul") || other->is("Gemm") || other->is("FusedMatMul", "com.microsoft")) &&
                           constant(other->input(1)) != nullptr);
    if (weighted) most = std::max(most, rows_read(*other, steps));
  }
  return most;
}

std::int64_t accuracy_level_for(const Node& product, int bits, std::int64_t asked) {
  if (asked != kAutomaticLevel) return asked;
  return bits == 4 && many_rows(product) ? 0 : 4;
}

std::string slowness(const WeightTarget& target, const WeightOptions& options) {
  if (target.use == WeightUse::kOther) return "decoded at every run before it is used";
  const bool standard = target.standard(options);
  if (target.use == WeightUse::kTable) {
    return standard
               ? "tables behind DequantizeLinear are decoded whole at every run (form=matmulnbits decodes the rows "
                 "that are read)"
               : "";
  }
  const int bits = target.format.stored_bits();
  // Otherwise it becomes MatMulNBits at load, with the session's own accuracy level.
  if (standard) {
    return before_clipping(*target.node)
               ? "products behind DequantizeLinear and in front of Relu or Clip are decoded at every run"
               : "";
  }
  if (target.format.float_zeros) return "zero points that are no codes are decoded at every product";
  const std::int64_t level = accuracy_level_for(*target.node, bits, options.accuracy_level);
  if (bits != 4 && level != 4) {
    return fmt::format("{} bits without accuracy-level=4 are decoded at every product", bits);
  }
  if (!many_rows(*target.node)) return {};
  if (bits == 4) return level == 4 ? "accuracy-level=4 is for few rows; with many, 0 is faster and exact" : "";
  return fmt::format("{} bits have no fast kernel for many rows (4 bits have one, or dynamic-int8)", bits);
}

}  // namespace onnxfold
