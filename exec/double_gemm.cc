// Panels of A and B are copied so that the kernel reads them in order (Goto and van de Geijn, 2008): a block of B stays
// in the second-level cache, a tile of C [6, 2 vectors] in registers.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "exec/double_gemm.cc"
#include <hwy/foreach_target.h>
// foreach_target first
#include <hwy/highway.h>

#include <algorithm>
#include <vector>

#include "exec/double_gemm.h"

HWY_BEFORE_NAMESPACE();
namespace onnxfold::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<double, 8>;
constexpr std::int64_t kRows = 6;
constexpr std::int64_t kDepth = 256, kWidth = 192, kHeight = 192;

// `panel` holds [depth, size] of lines that are `size` long, short ones filled up with zeros.
void pack(const DoubleOperand& from, bool lines_are_rows, std::int64_t first, std::int64_t count, std::int64_t start,
          std::int64_t depth, std::int64_t size, double* panel) {
  const std::int64_t line = lines_are_rows ? from.row_stride : from.column_stride;
  const std::int64_t along = lines_are_rows ? from.column_stride : from.row_stride;
  for (std::int64_t begin = 0; begin < count; begin += size) {
    const std::int64_t lines = std::min(size, count - begin);
    const double* source = from.data + (first + begin) * line + start * along;
    for (std::int64_t k = 0; k < depth; ++k, panel += size) {
      for (std::int64_t i = 0; i < lines; ++i) panel[i] = source[i * line + k * along];
      for (std::int64_t i = lines; i < size; ++i) panel[i] = 0;
    }
  }
}

// tile [6, 2 vectors] = A panel * B panel.
void multiply_panels(const double* a, const double* b, std::int64_t depth, double* tile) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  using V = hn::Vec<D>;
  V c00 = hn::Zero(d), c01 = c00, c10 = c00, c11 = c00, c20 = c00, c21 = c00;
  V c30 = c00, c31 = c00, c40 = c00, c41 = c00, c50 = c00, c51 = c00;
  for (std::int64_t k = 0; k < depth; ++k, a += kRows, b += 2 * lanes) {
    const V b0 = hn::LoadU(d, b), b1 = hn::LoadU(d, b + lanes);
    const V a0 = hn::Set(d, a[0]), a1 = hn::Set(d, a[1]), a2 = hn::Set(d, a[2]);
    c00 = hn::MulAdd(a0, b0, c00);
    c01 = hn::MulAdd(a0, b1, c01);
    c10 = hn::MulAdd(a1, b0, c10);
    c11 = hn::MulAdd(a1, b1, c11);
    c20 = hn::MulAdd(a2, b0, c20);
    c21 = hn::MulAdd(a2, b1, c21);
    const V a3 = hn::Set(d, a[3]), a4 = hn::Set(d, a[4]), a5 = hn::Set(d, a[5]);
    c30 = hn::MulAdd(a3, b0, c30);
    c31 = hn::MulAdd(a3, b1, c31);
    c40 = hn::MulAdd(a4, b0, c40);
    c41 = hn::MulAdd(a4, b1, c41);
    c50 = hn::MulAdd(a5, b0, c50);
    c51 = hn::MulAdd(a5, b1, c51);
  }
  const V all[] = {c00, c01, c10, c11, c20, c21, c30, c31, c40, c41, c50, c51};
  for (std::int64_t i = 0; i < 2 * kRows; ++i) hn::StoreU(all[i], d, tile + i * lanes);
}

void product(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const DoubleOperand& a,
             const DoubleOperand& b, double* c, std::int64_t ldc) {
  const auto columns = static_cast<std::int64_t>(2 * hn::Lanes(D()));
  const auto rounded = [](std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; };
  std::vector<double> left(static_cast<std::size_t>(rounded(std::min(m, kHeight), kRows) * std::min(k, kDepth)));
  std::vector<double> right(static_cast<std::size_t>(rounded(std::min(n, kWidth), columns) * std::min(k, kDepth)));
  double tile[kRows * 16];
  for (std::int64_t start = 0; start < k; start += kDepth) {
    const std::int64_t depth = std::min(kDepth, k - start);
    for (std::int64_t row = 0; row < m; row += kHeight) {
      const std::int64_t rows = std::min(kHeight, m - row);
      pack(a, true, row, rows, start, depth, kRows, left.data());
      for (std::int64_t column = 0; column < n; column += kWidth) {
        const std::int64_t width = std::min(kWidth, n - column);
        pack(b, false, column, width, start, depth, columns, right.data());
        for (std::int64_t j = 0; j < width; j += columns) {
          for (std::int64_t i = 0; i < rows; i += kRows) {
            multiply_panels(left.data() + i * depth, right.data() + j * depth, depth, tile);
            const std::int64_t high = std::min(kRows, rows - i), wide = std::min(columns, width - j);
            for (std::int64_t r = 0; r < high; ++r) {
              double* out = c + (row + i + r) * ldc + column + j;
              for (std::int64_t s = 0; s < wide; ++s) out[s] += alpha * tile[r * columns + s];
            }
          }
        }
      }
    }
  }
}

}  // namespace onnxfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace onnxfold {

HWY_EXPORT(product);

void add_double_product(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const DoubleOperand& a,
                        const DoubleOperand& b, double* c, std::int64_t ldc) {
  HWY_DYNAMIC_DISPATCH(product)(m, n, k, alpha, a, b, c, ldc);
}

}  // namespace onnxfold
#endif
