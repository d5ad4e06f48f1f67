// Batches of matrix products for every element type: gemm for floats, plain wrapping loops for integers.
#pragma once

#include <algorithm>
#include <span>
#include <type_traits>

#include "exec/gemm.h"
#include "exec/parallel.h"

namespace onnxfold {

struct ProductShape {
  std::int64_t m, n, k;
  std::int64_t lda, ldb;  // elements between stored rows; C is dense
  bool trans_a = false, trans_b = false;
};

template <typename T>
void multiply_row(const GemmItem<T>& item, const ProductShape& s, std::int64_t row) {
  using Wrapping = std::make_unsigned_t<T>;  // sums wrap as the operator's type does, without undefined behaviour
  for (std::int64_t j = 0; j < s.n; ++j) {
    std::uint64_t sum = 0;
    for (std::int64_t p = 0; p < s.k; ++p) {
      const T left = item.a[s.trans_a ? p * s.lda + row : row * s.lda + p];
      const T right = item.b[s.trans_b ? j * s.ldb + p : p * s.ldb + j];
      sum += static_cast<std::uint64_t>(left) * static_cast<std::uint64_t>(right);
    }
    item.c[row * s.n + j] = static_cast<T>(static_cast<Wrapping>(sum));
  }
}

// item.c = op(item.a) * op(item.b) for every item, c dense [m, n].
template <typename T>
void multiply_all(std::span<const GemmItem<T>> items, const ProductShape& s, T alpha = T{1}) {
  if constexpr (std::is_floating_point_v<T>) {
    gemm_batch(items, s.m, s.n, s.k, alpha, s.lda, s.trans_a, s.ldb, s.trans_b, T{0}, s.n);
  } else {
    const std::int64_t cost = std::max<std::int64_t>(1, s.n * std::max<std::int64_t>(s.k, 1));
    parallel_for(static_cast<std::int64_t>(items.size()) * s.m, std::max<std::int64_t>(1, kElementGrain / cost),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t i = begin; i < end; ++i) {
                     multiply_row(items[static_cast<std::size_t>(i / s.m)], s, i % s.m);
                   }
                 });
  }
}

}  // namespace onnxfold
