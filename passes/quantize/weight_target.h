// Weights that a weight-only quantizer may take: which node reads which constant in which direction, and why not.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ir/graph.h"
#include "passes/pass.h"
#include "passes/quantize/blockwise.h"
#include "passes/quantize/format_rules.h"

namespace onnxfold {

// accuracy_level that is chosen for each product (product_kernel.h).
inline constexpr std::int64_t kAutomaticLevel = -1;

// What every weight-only method of passes/quantize/ shares.
struct WeightOptions {
  BlockFormat format;
  bool standard = false;  // DequantizeLinear in front of the operator instead of com.microsoft operators
  bool gather = true;
  int other_bits = 0;  // of weights without fast low-bit form (WeightUse::kOther); 0: they stay in float
  std::int64_t accuracy_level = kAutomaticLevel;
  std::int64_t min_elements = 1024;
  std::vector<std::string> include, exclude;  // globs over names of weights and nodes
  std::vector<FormatRule> rules;              // formats of some weights, in the place of `format`
  std::optional<Error> bad_rules;             // what the text of the rules had wrong; check() says it

  // Errors: invalid_argument for combinations that no operator stores.
  Status check() const;
};

// Reads bits, block, symmetric, zero-points, scales, form, accuracy-level, gather, others, min-elements,
// include, exclude and formats, as far as the pass has them.
WeightOptions weight_options(const PassOptions& options);

// kAutomaticLevel or 0 to 4.
std::int64_t accuracy_level_option(const PassOptions& options);

enum class WeightUse {
  kProduct,  // right operand of MatMul, Gemm or FusedMatMul, rank 2
  kTable,    // of a Gather along rows, rank 2
  kOther,    // left operands, weights of more axes, tables of such, Einsum, Conv, ConvTranspose, RNN, GRU, LSTM, and of
           // com.microsoft FusedGemm, FusedConv, Attention, EmbedLayerNormalization, MoE: DequantizeLinear in any form
};

// One weight in the graph and how its node reads it: directly, or behind Identity, Cast between floating types, and
// Transpose of a matrix (a tied head reads the table of the embedding that way).
struct WeightTarget {
  Node* node = nullptr;
  Value* weight = nullptr;       // the constant
  std::size_t input = 1;         // of the node
  DType type = DType::kFloat32;  // of the values that the node reads
  WeightUse use = WeightUse::kProduct;
  BlockShape shape;       // rows are the outputs of a product, the entries of a table
  std::int64_t axis = 0;  // kOther: the axis along which blocks run
  Dims dims;              // as the node reads it
  BlockFormat format;     // of this weight

  bool table() const { return use == WeightUse::kTable; }
  // Is it stored in front of a DequantizeLinear?
  bool standard(const WeightOptions& options) const { return options.standard || use == WeightUse::kOther; }
  // Type of the scales. DequantizeLinear has no double: those are cast.
  DType scale_type() const { return type == DType::kFloat64 ? DType::kFloat32 : type; }
};

// block_size of MatMulNBits and GatherBlockQuantized for rows of `cols`. Formats without blocks take the largest that
// divides the row, so that nothing is padded.
std::int64_t operator_block(const BlockFormat& format, std::int64_t cols);

// ONNX Runtime up to 1.32 at least misreads 2-bit weights [K, N] when it fuses DequantizeLinear and MatMul and N is no
// multiple of 4: such a weight is refused in the standard form.
inline constexpr const char* kTornFusion =
    "2 bits with a number of columns that is no multiple of 4: ONNX Runtime misreads it (form=matmulnbits takes it)";

// Bytes of codes, scales and zero points in the layout that `options` ask for.
std::int64_t quantized_bytes(const WeightTarget& target, const WeightOptions& options);

// Opset that the target's operators need; 0: any.
std::int64_t opset_needed(const WeightTarget& target, const WeightOptions& options);

// The targets of one graph in node order. Every node with a constant floating-point weight that is no target gets a
// remark with the reason, quantized ones included; products of two activations get none.
std::vector<WeightTarget> find_weight_targets(const Graph& graph, const WeightOptions& options, PassContext& context);

}  // namespace onnxfold
