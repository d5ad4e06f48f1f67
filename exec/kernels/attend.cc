#include "exec/kernels/attend.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "exec/gemm.h"
#include "exec/parallel.h"
#include "exec/vector_math.h"

namespace onnxfold {
namespace {

// Queries handled at once: bounds the scores held per thread, and does not depend on threads.
constexpr std::int64_t kQueryBlock = 256;

template <typename T>
void add_bias(const Attention<T>& a, std::int64_t b, std::int64_t h, std::int64_t i, T* row) {
  constexpr T kMasked = -std::numeric_limits<T>::infinity();
  if (a.bias) {
    const T* bias = a.bias + b * a.bias_batch + h * a.bias_head + i * a.bias_row;
    const std::int64_t covered = std::min(a.keys, a.bias_keys);
    for (std::int64_t j = 0; j < covered; ++j) row[j] += bias[j * a.bias_column];
    std::fill(row + covered, row + a.keys, kMasked);
  }
  if (a.visible) {
    const auto [first, last] = a.visible(b, i);
    const std::int64_t begin = std::clamp<std::int64_t>(first, 0, a.keys),
                       end = std::clamp<std::int64_t>(last, begin, a.keys);
    std::fill(row, row + begin, kMasked);
    std::fill(row + end, row + a.keys, kMasked);
  }
}

template <typename T>
void normalize_row(T* row, std::int64_t n) {
  T largest = -std::numeric_limits<T>::infinity();
  for (std::int64_t j = 0; j < n; ++j) largest = std::max(largest, row[j]);
  if (largest == -std::numeric_limits<T>::infinity()) {
    std::fill_n(row, n, T{0});  // nothing is visible
    return;
  }
  if constexpr (std::is_same_v<T, float>) return softmax_row(row, row, n);
  double sum = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    row[j] = std::exp(row[j] - largest);
    sum += static_cast<double>(row[j]);
  }
  const T factor = static_cast<T>(1 / sum);
  for (std::int64_t j = 0; j < n; ++j) row[j] *= factor;
}

template <typename T>
void attend_block(const Attention<T>& a, std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t last,
                  std::vector<T>& scores) {
  const std::int64_t rows = last - first, group = h / (a.heads / a.kv_heads);
  scores.resize(static_cast<std::size_t>(rows * a.keys));
  const T* q = a.q + b * a.q_rows.batch_stride + h * a.q_rows.head_stride + first * a.q_rows.row_stride;
  const T* k = a.k + b * a.k_rows.batch_stride + group * a.k_rows.head_stride;
  const T* v = a.v + b * a.v_rows.batch_stride + group * a.v_rows.head_stride;
  T* out = a.out + b * a.out_rows.batch_stride + h * a.out_rows.head_stride + first * a.out_rows.row_stride;
  gemm(rows, a.keys, a.width, static_cast<T>(a.scale), q, a.q_rows.row_stride, false, k, a.k_rows.row_stride, true,
       T{0}, scores.data(), a.keys);
  T* kept = a.scores_out ? a.scores_out + ((b * a.heads + h) * a.queries + first) * a.keys : nullptr;
  const auto keep = [&](int stage, std::int64_t i) {
    if (kept && a.scores_stage == stage) std::copy_n(scores.data() + i * a.keys, a.keys, kept + i * a.keys);
  };
  const T cap = static_cast<T>(a.softcap);
  for (std::int64_t i = 0; i < rows; ++i) {
    T* row = scores.data() + i * a.keys;
    keep(0, i);
    for (std::int64_t j = 0; cap != 0 && j < a.keys; ++j) row[j] = cap * std::tanh(row[j] / cap);
    keep(1, i);
    add_bias(a, b, h, first + i, row);
    keep(2, i);
    normalize_row(row, a.keys);
    keep(3, i);
  }
  gemm(rows, a.value_width, a.keys, T{1}, scores.data(), a.keys, false, v, a.v_rows.row_stride, false, T{0}, out,
       a.out_rows.row_stride);
}

template <typename T>
void run(const Attention<T>& a) {
  const std::int64_t blocks = (a.queries + kQueryBlock - 1) / kQueryBlock;
  const double work = static_cast<double>(std::min(a.queries, kQueryBlock)) * static_cast<double>(a.keys) *
                      static_cast<double>(a.width + a.value_width + 16);
  const auto grain = static_cast<std::int64_t>(std::max(1.0, 131072 / std::max(work, 1.0)));
  parallel_for(a.batch * a.heads * blocks, grain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<T> scores;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t head = i / blocks, first = i % blocks * kQueryBlock;
      attend_block(a, head / a.heads, head % a.heads, first, std::min(a.queries, first + kQueryBlock), scores);
    }
  });
}

}  // namespace

void attend(const Attention<float>& attention) { run(attention); }
void attend(const Attention<double>& attention) { run(attention); }

}  // namespace onnxfold
