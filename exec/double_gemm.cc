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

HWY_INLINE hn::Vec<D> load(const double* from) { return hn::LoadU(D(), from); }
HWY_INLINE hn::Vec<D> load(const float* from) { return hn::PromoteTo(D(), hn::LoadU(hn::Rebind<float, D>(), from)); }

// `panel` holds [depth, size] of lines that are `size` long, short ones filled up with zeros.
template <typename T>
void pack(const ProductOperand<T>& from, bool lines_are_rows, std::int64_t first, std::int64_t count,
          std::int64_t start, std::int64_t depth, std::int64_t size, double* panel) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(D()));
  const std::int64_t line = lines_are_rows ? from.row_stride : from.column_stride;
  const std::int64_t along = lines_are_rows ? from.column_stride : from.row_stride;
  for (std::int64_t begin = 0; begin < count; begin += size) {
    const std::int64_t lines = std::min(size, count - begin);
    const T* source = from.data + (first + begin) * line + start * along;
    if (line == 1 && lines == size && size == 2 * lanes) {
      for (std::int64_t k = 0; k < depth; ++k, panel += size, source += along) {
        hn::StoreU(load(source), D(), panel);
        hn::StoreU(load(source + lanes), D(), panel + lanes);
      }
      continue;
    }
    if (line == 1 && lines == kRows && size == kRows) {
      for (std::int64_t k = 0; k < depth; ++k, panel += kRows, source += along) {
        for (std::int64_t i = 0; i < kRows; ++i) panel[i] = static_cast<double>(source[i]);
      }
      continue;
    }
    for (std::int64_t k = 0; k < depth; ++k, panel += size) {
      for (std::int64_t i = 0; i < lines; ++i) panel[i] = static_cast<double>(source[i * line + k * along]);
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

// out += alpha * tile for the first `wide` of `columns` elements, as two operations everywhere.
HWY_INLINE void add_row(double alpha, const double* tile, std::int64_t wide, std::int64_t columns, double* out) {
  if (wide < columns) {
    for (std::int64_t s = 0; s < wide; ++s) out[s] += alpha * tile[s];
    return;
  }
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t s = 0; s < columns; s += lanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, out + s), hn::Mul(hn::Set(d, alpha), hn::LoadU(d, tile + s))), d, out + s);
  }
}

// Memory of a thread for panels: fresh memory for every product cost a tenth of its time in page faults.
double* scratch(std::vector<double>& kept, std::int64_t count) {
  if (kept.size() < static_cast<std::size_t>(count)) kept.resize(static_cast<std::size_t>(count));
  return kept.data();
}

template <typename T>
void product(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const ProductOperand<T>& a,
             const ProductOperand<T>& b, double* c, std::int64_t ldc) {
  const auto columns = static_cast<std::int64_t>(2 * hn::Lanes(D()));
  const auto rounded = [](std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; };
  thread_local std::vector<double> left_memory, right_memory;
  double* left = scratch(left_memory, rounded(std::min(m, kHeight), kRows) * std::min(k, kDepth));
  double* right = scratch(right_memory, rounded(std::min(n, kWidth), columns) * std::min(k, kDepth));
  double tile[kRows * 16];
  for (std::int64_t start = 0; start < k; start += kDepth) {
    const std::int64_t depth = std::min(kDepth, k - start);
    for (std::int64_t row = 0; row < m; row += kHeight) {
      const std::int64_t rows = std::min(kHeight, m - row);
      pack(a, true, row, rows, start, depth, kRows, left);
      for (std::int64_t column = 0; column < n; column += kWidth) {
        const std::int64_t width = std::min(kWidth, n - column);
        pack(b, false, column, width, start, depth, columns, right);
        for (std::int64_t j = 0; j < width; j += columns) {
          for (std::int64_t i = 0; i < rows; i += kRows) {
            multiply_panels(left + i * depth, right + j * depth, depth, tile);
            const std::int64_t high = std::min(kRows, rows - i), wide = std::min(columns, width - j);
            double* out = c + (row + i) * ldc + column + j;
            for (std::int64_t r = 0; r < high; ++r) add_row(alpha, tile + r * columns, wide, columns, out + r * ldc);
          }
        }
      }
    }
  }
}

void double_product(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const ProductOperand<double>& a,
                    const ProductOperand<double>& b, double* c, std::int64_t ldc) {
  product(m, n, k, alpha, a, b, c, ldc);
}

void float_product(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const ProductOperand<float>& a,
                   const ProductOperand<float>& b, double* c, std::int64_t ldc) {
  product(m, n, k, alpha, a, b, c, ldc);
}

}  // namespace onnxfold::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace onnxfold {

HWY_EXPORT(double_product);
HWY_EXPORT(float_product);

void add_double_product(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const ProductOperand<double>& a,
                        const ProductOperand<double>& b, double* c, std::int64_t ldc) {
  HWY_DYNAMIC_DISPATCH(double_product)(m, n, k, alpha, a, b, c, ldc);
}

void add_double_product(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const ProductOperand<float>& a,
                        const ProductOperand<float>& b, double* c, std::int64_t ldc) {
  HWY_DYNAMIC_DISPATCH(float_product)(m, n, k, alpha, a, b, c, ldc);
}

}  // namespace onnxfold
#endif
