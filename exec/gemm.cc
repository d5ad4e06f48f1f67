#define EIGEN_DONT_PARALLELIZE
#include "exec/gemm.h"

#include <dnnl.h>
#include <omp.h>

#include <Eigen/Core>
#include <algorithm>

#include "exec/double_gemm.h"
#include "exec/parallel.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kTileRows = 192;
constexpr std::int64_t kTileColumns = 768;
// Below this many multiplications a second thread costs more than it brings.
constexpr std::int64_t kThreadWork = 1 << 17;
constexpr std::int64_t kPanelLines = 8;

struct Plan {
  std::int64_t m, n, k;
  std::int64_t lda, ldb, ldc;
  bool trans_a, trans_b;
};

// A tile of C, C being [rows, columns] at (row, column).
struct Tile {
  std::int64_t row, column, rows, columns;
};

template <typename T>
void scale(T* c, std::int64_t ldc, const Tile& tile, T beta) {
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    T* row = c + i * ldc;
    if (beta == 0) {
      std::fill_n(row, tile.columns, T{0});
    } else {
      for (std::int64_t j = 0; j < tile.columns; ++j) row[j] *= beta;
    }
  }
}

void multiply(const Plan& p, const Tile& tile, float alpha, const float* a, const float* b, float beta, float* c) {
  const SingleThreadScope single;
  dnnl_sgemm(p.trans_a ? 'T' : 'N', p.trans_b ? 'T' : 'N', tile.rows, tile.columns, p.k, alpha, a, p.lda, b, p.ldb,
             beta, c, p.ldc);
}

using RowMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Stride = Eigen::OuterStride<>;
using ConstMap = Eigen::Map<const RowMatrix, 0, Stride>;

void multiply(const Plan& p, const Tile& tile, double alpha, const double* a, const double* b, double beta, double* c) {
  scale(c, p.ldc, tile, beta);
  // Copying panels would cost as much as the product of a few rows or columns.
  if (tile.rows >= kPanelLines && tile.columns >= kPanelLines) {
    const DoubleOperand first{a, p.trans_a ? 1 : p.lda, p.trans_a ? p.lda : 1};
    const DoubleOperand second{b, p.trans_b ? 1 : p.ldb, p.trans_b ? p.ldb : 1};
    return add_double_product(tile.rows, tile.columns, p.k, alpha, first, second, c, p.ldc);
  }
  Eigen::Map<RowMatrix, 0, Stride> out(c, tile.rows, tile.columns, Stride(p.ldc));
  const ConstMap left(a, p.trans_a ? p.k : tile.rows, p.trans_a ? tile.rows : p.k, Stride(p.lda));
  const ConstMap right(b, p.trans_b ? tile.columns : p.k, p.trans_b ? p.k : tile.columns, Stride(p.ldb));
  if (p.trans_a && p.trans_b) {
    out.noalias() += alpha * left.transpose() * right.transpose();
  } else if (p.trans_a) {
    out.noalias() += alpha * left.transpose() * right;
  } else if (p.trans_b) {
    out.noalias() += alpha * left * right.transpose();
  } else {
    out.noalias() += alpha * left * right;
  }
}

template <typename T>
void run_tile(const Plan& p, const Tile& tile, T alpha, const GemmItem<T>& item, T beta) {
  T* c = item.c + tile.row * p.ldc + tile.column;
  if (p.k == 0 || alpha == 0) return scale(c, p.ldc, tile, beta);
  multiply(p, tile, alpha, item.a + tile.row * (p.trans_a ? 1 : p.lda), item.b + tile.column * (p.trans_b ? p.ldb : 1),
           beta, c);
}

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

template <typename T>
void run_batch(std::span<const GemmItem<T>> items, const Plan& p, T alpha, T beta) {
  if (p.m <= 0 || p.n <= 0 || items.empty()) return;
  const std::int64_t rows = divide_up(p.m, kTileRows), columns = divide_up(p.n, kTileColumns);
  const std::int64_t tiles = rows * columns;
  const double work = static_cast<double>(p.m) / static_cast<double>(rows) * static_cast<double>(p.n) /
                      static_cast<double>(columns) * static_cast<double>(std::max<std::int64_t>(p.k, 1));
  const auto grain = static_cast<std::int64_t>(std::max(1.0, static_cast<double>(kThreadWork) / work));
  parallel_for(static_cast<std::int64_t>(items.size()) * tiles, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t at = i % tiles;
      const std::int64_t row = at / columns * kTileRows, column = at % columns * kTileColumns;
      const Tile tile{row, column, std::min(kTileRows, p.m - row), std::min(kTileColumns, p.n - column)};
      run_tile(p, tile, alpha, items[static_cast<std::size_t>(i / tiles)], beta);
    }
  });
}

}  // namespace

SingleThreadScope::SingleThreadScope() : before_(omp_get_max_threads()) {
  if (before_ != 1) omp_set_num_threads(1);
}

SingleThreadScope::~SingleThreadScope() {
  if (before_ != 1) omp_set_num_threads(before_);
}

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const float* a, std::int64_t lda, bool trans_a,
          const float* b, std::int64_t ldb, bool trans_b, float beta, float* c, std::int64_t ldc) {
  const GemmItem<float> item{a, b, c};
  run_batch(std::span(&item, 1), {m, n, k, lda, ldb, ldc, trans_a, trans_b}, alpha, beta);
}

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const double* a, std::int64_t lda, bool trans_a,
          const double* b, std::int64_t ldb, bool trans_b, double beta, double* c, std::int64_t ldc) {
  const GemmItem<double> item{a, b, c};
  run_batch(std::span(&item, 1), {m, n, k, lda, ldb, ldc, trans_a, trans_b}, alpha, beta);
}

void gemm_batch(std::span<const GemmItem<float>> items, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
                std::int64_t lda, bool trans_a, std::int64_t ldb, bool trans_b, float beta, std::int64_t ldc) {
  run_batch(items, {m, n, k, lda, ldb, ldc, trans_a, trans_b}, alpha, beta);
}

void gemm_batch(std::span<const GemmItem<double>> items, std::int64_t m, std::int64_t n, std::int64_t k, double alpha,
                std::int64_t lda, bool trans_a, std::int64_t ldb, bool trans_b, double beta, std::int64_t ldc) {
  run_batch(items, {m, n, k, lda, ldb, ldc, trans_a, trans_b}, alpha, beta);
}

}  // namespace onnxfold
