// Scaled dot product attention, shared by the attention operators of ONNX and ONNX Runtime.
#pragma once

#include <functional>

#include "exec/kernel.h"

namespace onnxfold {

// Where a head's rows lie in memory, in elements.
struct HeadRows {
  std::int64_t batch_stride, head_stride, row_stride;
};

// softmax(softcap(q * k^T * scale) + bias) * v for every batch element and head. Softmax sums are doubles.
template <typename T>
struct Attention {
  std::int64_t batch, heads, kv_heads, queries, keys, width, value_width;
  const T *q, *k, *v;
  HeadRows q_rows, k_rows, v_rows, out_rows;
  T* out;
  double scale = 1, softcap = 0;
  // Added to the scores; null when absent. Broadcast by zero strides; columns contiguous, or one for all when
  // column_stride is 0. Columns from bias_keys on count as minus infinity.
  const T* bias = nullptr;
  std::int64_t bias_batch = 0, bias_head = 0, bias_row = 0, bias_column = 1, bias_keys = 0;
  // Keys [first, last) that query i of batch element b sees; empty ranges give zero rows. Null: all.
  std::function<std::pair<std::int64_t, std::int64_t>(std::int64_t b, std::int64_t i)> visible;
  // Scores as they are after a stage, [batch, heads, queries, keys]; null when not wanted. Stage 0: scaled product, 1:
  // after softcap, 2: after bias and masks, 3: after softmax.
  T* scores_out = nullptr;
  int scores_stage = 0;
};

void attend(const Attention<float>& attention);
void attend(const Attention<double>& attention);

}  // namespace onnxfold
