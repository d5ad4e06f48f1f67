// What quantized weights stand for: DequantizeLinear of constants, MatMulNBits and GatherBlockQuantized, as floats.
//
// (code - zero) * scale with the operators' own rules: blocks along an axis, scales by axis or for all, packed bytes,
// missing zero points, g_idx. Scales and zero points may be computed from constants (Cast, Mul, Reshape, ...): those
// are evaluated at once, they are small. The weights are deferred: decoded when they are asked for.
#pragma once

#include <optional>
#include <string>

#include "ir/graph.h"
#include "ir/result.h"
#include "ir/tensor.h"

namespace onnxfold {

struct DecodedWeight {
  std::string why;  // empty: decoded
  Tensor tensor;
};

// `value` evaluated, if it depends on constants only; nullopt otherwise. Errors: those of the executor.
Result<std::optional<Tensor>> constant_value(const Value* value);

// REQUIRES: DequantizeLinear. The dims of its operand.
DecodedWeight decode_linear(const Node& node);
// REQUIRES: com.microsoft MatMulNBits. [K, N], or [N, K] when `by_rows`.
DecodedWeight decode_product(const Node& node, bool by_rows);
// REQUIRES: com.microsoft GatherBlockQuantized. The table.
DecodedWeight decode_table(const Node& node);

// The constant that holds the codes of MatMulNBits or GatherBlockQuantized, Reshape and Slice between or not; null:
// none.
const Value* packed_codes(const Node& node);

}  // namespace onnxfold
