// What Attention of the standard and MultiHeadAttention of ONNX Runtime have in common, and the chain that computes it.
#pragma once

#include <optional>

#include "passes/reparam/chain_builder.h"

namespace onnxfold {

// Each of q, k, v is [B, heads, positions, width] or [B, positions, heads * width].
struct AttentionSpec {
  Value *q = nullptr, *k = nullptr, *v = nullptr;
  std::int64_t heads = 0, kv_heads = 0;
  double scale = 1, softcap = 0;  // softcap 0: none
  bool causal = false;
  Value* mask = nullptr;  // bool (true: seen) or numbers to add, broadcast to [B, heads, positions, keys]
  Value *past_key = nullptr, *past_value = nullptr;
  DType softmax_type = DType::kUndefined;  // undefined: that of q
};

struct ExpandedAttention {
  Value* output = nullptr;                 // of the rank of q
  Value *key = nullptr, *value = nullptr;  // [B, kv_heads, keys, width], past ones first
  Value *scores = nullptr, *probabilities = nullptr;
};

// Reshape, Transpose, MatMul, Mul, Softmax, MatMul and what else the spec needs. Rows that see no key become zeros, as
// in the operators. REQUIRES: opset 13, q, k and v of known rank and float type, heads a multiple of kv_heads.
ExpandedAttention expand_attention(ChainBuilder& build, const AttentionSpec& spec);

}  // namespace onnxfold
