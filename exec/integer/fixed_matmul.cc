#include <algorithm>
#include <bit>

#include "exec/broadcast.h"
#include "exec/integer/fixed_arithmetic.h"
#include "exec/parallel.h"

namespace onnxfold {
namespace {

constexpr int kSumBits = 62;

struct Extremes {
  int bits = 0;  // of the widest mantissa
  std::int32_t low = 0, high = 0;
  bool finite = true;
};

Extremes extremes_of(const FixedArray& x) {
  Extremes e;
  std::uint64_t widest = 0;
  bool first = true;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (x.mantissas[i] == 0) continue;
    const std::int64_t m = x.mantissas[i];
    widest |= static_cast<std::uint64_t>(m < 0 ? -m : m);
    e.low = first ? x.exponents[i] : std::min(e.low, x.exponents[i]);
    e.high = first ? x.exponents[i] : std::max(e.high, x.exponents[i]);
    first = false;
  }
  e.bits = std::bit_width(widest);
  e.finite = e.high < kInfiniteExponent;
  return e;
}

// Matrices of an operand, rows along the summed axis: [matrices, rows, length].
struct Rows {
  std::vector<std::int64_t> mantissas;
  std::vector<std::int32_t> exponents;
  std::int64_t rows = 0, length = 0;
};

// Where some row changes its exponent (zeros have none of their own). Runs between the places are [begin, end).
void mark_changes(const Rows& x, std::int64_t matrix, std::vector<char>& changes) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const std::int64_t start = (matrix * x.rows + r) * x.length;
    for (std::int64_t k = 1; k < x.length; ++k) {
      const auto at = static_cast<std::size_t>(start + k);
      if (x.exponents[at] != x.exponents[at - 1]) changes[static_cast<std::size_t>(k)] = 1;
    }
  }
}

// Zeros take the exponent of their neighbour, so that they end no run.
Rows rows_of(const FixedArray& x, bool transposed) {
  const std::size_t rank = x.dims.size();
  const FixedArray turned = transposed ? fixed_transpose(x) : FixedArray();
  const FixedArray& from = transposed ? turned : x;
  Rows rows{from.mantissas, from.exponents, from.dims[rank - 2], from.dims[rank - 1]};
  for (std::size_t i = 0; i < rows.mantissas.size(); ++i) {
    const bool begins = static_cast<std::int64_t>(i) % rows.length == 0;
    if (rows.mantissas[i] != 0) continue;
    std::size_t next = i;
    const std::size_t end = i - i % static_cast<std::size_t>(rows.length) + static_cast<std::size_t>(rows.length);
    while (next < end && rows.mantissas[next] == 0) ++next;
    rows.exponents[i] = !begins ? rows.exponents[i - 1] : next < end ? rows.exponents[next] : 0;
  }
  return rows;
}

struct Run {
  std::int64_t begin = 0, end = 0;
};

std::vector<Run> runs_of(const Rows& a, std::int64_t matrix_a, const Rows& b, std::int64_t matrix_b) {
  std::vector<char> changes(static_cast<std::size_t>(a.length), 0);
  mark_changes(a, matrix_a, changes);
  mark_changes(b, matrix_b, changes);
  std::vector<Run> runs;
  for (std::int64_t k = 0; k < a.length; ++k) {
    if (k == 0 || changes[static_cast<std::size_t>(k)] != 0) runs.push_back({k, k});
    runs.back().end = k + 1;
  }
  return runs;
}

// One output: integer dot products of the runs, aligned to the smallest shift.
void dot(const Rows& a, std::int64_t row_a, const Rows& b, std::int64_t row_b, const std::vector<Run>& runs,
         std::int64_t& mantissa, std::int32_t& exponent, std::int64_t& peak) {
  const std::int64_t *x = a.mantissas.data() + row_a * a.length, *y = b.mantissas.data() + row_b * b.length;
  const std::int32_t *p = a.exponents.data() + row_a * a.length, *q = b.exponents.data() + row_b * b.length;
  std::int32_t least = runs.empty() ? 0 : p[runs[0].begin] + q[runs[0].begin];
  for (const Run& run : runs) least = std::min(least, p[run.begin] + q[run.begin]);
  std::int64_t sum = 0, total = 0;
  for (const Run& run : runs) {
    std::int64_t product = 0, sizes = 0;
    for (std::int64_t k = run.begin; k < run.end; ++k) {
      const std::int64_t term = x[k] * y[k];
      product += term;
      sizes += term < 0 ? -term : term;
    }
    const std::int32_t shift = p[run.begin] + q[run.begin] - least;
    sum += product * (std::int64_t{1} << shift);
    total += sizes * (std::int64_t{1} << shift);
  }
  mantissa = sum;
  exponent = least;
  peak = std::max(peak, total);
}

// Matrix `index` of the output reads these matrices of an operand.
std::int64_t matrix_of(const Dims& batch, const Dims& own, std::int64_t index) {
  std::int64_t at = 0, stride = 1;
  for (std::size_t i = 0; i < own.size(); ++i) {
    const std::size_t from_end = own.size() - 1 - i;
    const std::int64_t size = batch[batch.size() - 1 - i], here = index % size;
    index /= size;
    if (own[from_end] != 1) at += here * stride;
    stride *= own[from_end];
  }
  return at;
}

}  // namespace

std::optional<FixedArray> fixed_matmul(const FixedArray& a, const FixedArray& b, Peak& peak) {
  if (a.dims.size() < 2 || b.dims.size() < 2) return {};
  const Dims batch_a(a.dims.begin(), a.dims.end() - 2), batch_b(b.dims.begin(), b.dims.end() - 2);
  const auto batch = broadcast_dims(batch_a, batch_b);
  if (!batch || a.dims.back() != b.dims[b.dims.size() - 2]) return {};
  const Extremes x = extremes_of(a), y = extremes_of(b);
  const auto length = static_cast<std::uint64_t>(a.dims.back());
  const int spread = (x.high - x.low) + (y.high - y.low);
  if (!x.finite || !y.finite || x.bits + y.bits + spread + std::bit_width(length) > kSumBits) return {};
  const Rows left = rows_of(a, false), right = rows_of(b, true);
  Dims dims = *batch;
  dims.push_back(left.rows);
  dims.push_back(right.rows);
  FixedArray out(dims);
  const std::int64_t matrices = element_count(*batch);
  std::vector<std::int64_t> peaks(static_cast<std::size_t>(left.rows));
  for (std::int64_t m = 0; m < matrices; ++m) {
    const std::int64_t at_a = matrix_of(*batch, batch_a, m), at_b = matrix_of(*batch, batch_b, m);
    const std::vector<Run> runs = runs_of(left, at_a, right, at_b);
    parallel_for(left.rows, 1 + kElementGrain / (1 + right.rows * left.length),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t r = begin; r < end; ++r) {
                     for (std::int64_t c = 0; c < right.rows; ++c) {
                       const auto at = static_cast<std::size_t>((m * left.rows + r) * right.rows + c);
                       dot(left, at_a * left.rows + r, right, at_b * right.rows + c, runs, out.mantissas[at],
                           out.exponents[at], peaks[static_cast<std::size_t>(r)]);
                     }
                   }
                 });
  }
  for (const std::int64_t each : peaks) peak.see(each);
  return out;
}

}  // namespace onnxfold
