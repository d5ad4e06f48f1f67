#include "passes/quantize/product_kernel.h"

#include <fmt/format.h>

#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kManyRows = 32;  // where decoding a weight once for all rows begins to pay

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

std::int64_t certain_rows(const Node& product) {
  const auto& shape = product.input(0)->type().shape;
  if (!shape || shape->empty()) return 1;
  const bool turned = product.is("Gemm") && product.attr_int("transA", 0) != 0;
  std::int64_t rows = 1;
  for (std::size_t i = 0; i < shape->size(); ++i) {
    if (i == (turned ? 0 : shape->size() - 1)) continue;
    const Dim& dim = (*shape)[i];
    if (dim.known() && *dim.value > 0) rows *= *dim.value;
  }
  return rows;
}

std::int64_t accuracy_level_for(const Node& product, int bits, std::int64_t asked) {
  if (asked != kAutomaticLevel) return asked;
  return bits == 4 && certain_rows(product) >= kManyRows ? 0 : 4;
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
  if (bits != 4 && accuracy_level_for(*target.node, bits, options.accuracy_level) != 4) {
    return fmt::format("{} bits without accuracy-level=4 are decoded at every product", bits);
  }
  if (bits == 2 && certain_rows(*target.node) >= kManyRows) {
    return fmt::format("2 bits with {} rows or more to multiply have no fast kernel", kManyRows);
  }
  return {};
}

}  // namespace onnxfold
