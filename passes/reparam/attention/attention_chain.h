// An attention chain read as the standard operator Attention (opset 23) would need it.
#pragma once

#include <optional>
#include <string>

#include "analysis/structure/attention.h"

namespace onnxfold {

// Operands of rank 4, [batch, heads, positions, width], or of rank 3 with heads side by side when flat. Of k either the
// value itself or what has to be transposed by `key_order` first.
struct AttentionChain {
  Value *q = nullptr, *k = nullptr, *v = nullptr;
  std::vector<std::int64_t> key_order;  // empty: k as it is
  std::int64_t heads = 0, kv_heads = 0;
  bool flat = false;
  double scale = 1;
  std::int64_t head_width = 0;
  Value* mask = nullptr;           // added to the scores, or the condition of a Where...
  std::optional<double> hidden;    // ...that puts this number in the place of scores...
  bool hidden_where_true = false;  // ...where it is true
  bool expand_mask = false;        // its second last axis has to be repeated to the positions of q
  bool causal = false;             // the mask is the constant triangle that is_causal stands for, and is left out
  Value* output = nullptr;         // what the operator replaces
};

// Why not, in words, when it cannot be one operator exactly.
std::optional<AttentionChain> attention_chain(const Attention& attention, std::string& why);

}  // namespace onnxfold
