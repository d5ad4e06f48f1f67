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

template <typename T>
void multiply_in_double(const Plan& p, const Tile& tile, double alpha, const T* a, const T* b, double beta, double* c) {
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using ConstMap = Eigen::Map<const Matrix, 0, Stride>;
  scale(c, p.ldc, tile, beta);
  // Copying panels would cost as much as the product of a few rows or columns.
  if (tile.rows >= kPanelLines && tile.columns >= kPanelLines) {
    const ProductOperand<T> first{a, p.trans_a ? 1 : p.lda, p.trans_a ? p.lda : 1};
    const ProductOperand<T> second{b, p.trans_b ? 1 : p.ldb, p.trans_b ? p.ldb : 1};
    return add_double_product(tile.rows, tile.columns, p.k, alpha, first, second, c, p.ldc);
  }
  Eigen::Map<RowMatrix, 0, Stride> out(c, tile.rows, tile.columns, Stride(p.ldc));
  const auto left = ConstMap(a, p.trans_a ? p.k : tile.rows, p.trans_a ? tile.rows : p.k, Stride(p.lda));
  const auto right = ConstMap(b, p.trans_b ? tile.columns : p.k, p.trans_b ? p.k : tile.columns, Stride(p.ldb));
  const auto x = left.template cast<double>(), y = right.template cast<double>();
  if (p.trans_a && p.trans_b) {
    out.noalias() += alpha * x.transpose() * y.transpose();
  } else if (p.trans_a) {
    out.noalias() += alpha * x.transpose() * y;
  } else if (p.trans_b) {
    out.noalias() += alpha * x * y.transpose();
  } else {
    out.noalias() += alpha * x * y;
  }
}

void multiply(const Plan& p, const Tile& tile, double alpha, const double* a, const double* b, double beta, double* c) {
  multiply_in_double(p, tile, alpha, a, b, beta, c);
}
void multiply(const Plan& p, const Tile& tile, double alpha, const float* a, const float* b, double beta, double* c) {
  multiply_in_double(p, tile, alpha, a, b, beta, c);
}

// `In` is the type of the factors.
template <typename In, typename Out>
struct Item {
  const In* a;
  const In* b;
  Out* c;
};

template <typename In, typename Out>
void run_tile(const Plan& p, const Tile& tile, Out alpha, const Item<In, Out>& item, Out beta) {
  Out* c = item.c + tile.row * p.ldc + tile.column;
  if (p.k == 0 || alpha == 0) return scale(c, p.ldc, tile, beta);
  multiply(p, tile, alpha, item.a + tile.row * (p.trans_a ? 1 : p.lda), item.b + tile.column * (p.trans_b ? p.ldb : 1),
           beta, c);
}

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

// item(i), i < count: the i-th.
template <typename Out, typename Items>
void run_batch(std::int64_t count, const Items& item, const Plan& p, Out alpha, Out beta) {
  if (p.m <= 0 || p.n <= 0 || count == 0) return;
  const std::int64_t rows = divide_up(p.m, kTileRows), columns = divide_up(p.n, kTileColumns);
  const std::int64_t tiles = rows * columns;
  const double work = static_cast<double>(p.m) / static_cast<double>(rows) * static_cast<double>(p.n) /
                      static_cast<double>(columns) * static_cast<double>(std::max<std::int64_t>(p.k, 1));
  const auto grain = static_cast<std::int64_t>(std::max(1.0, static_cast<double>(kThreadWork) / work));
  parallel_for(count * tiles, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t at = i % tiles;
      const std::int64_t row = at / columns * kTileRows, column = at % columns * kTileColumns;
      const Tile tile{row, column, std::min(kTileRows, p.m - row), std::min(kTileColumns, p.n - column)};
      run_tile(p, tile, alpha, item(i / tiles), beta);
    }
  });
}

template <typename In, typename Out>
void run_one(const Item<In, Out>& item, const Plan& p, Out alpha, Out beta) {
  run_batch(
      1, [&](std::int64_t) -> const Item<In, Out>& { return item; }, p, alpha, beta);
}

template <typename T>
void run_all(std::span<const GemmItem<T>> items, const Plan& p, T alpha, T beta) {
  const auto item = [&](std::int64_t i) {
    const GemmItem<T>& each = items[static_cast<std::size_t>(i)];
    return Item<T, T>{each.a, each.b, each.c};
  };
  run_batch(static_cast<std::int64_t>(items.size()), item, p, alpha, beta);
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
  run_one(Item<float, float>{a, b, c}, {m, n, k, lda, ldb, ldc, trans_a, trans_b}, alpha, beta);
}

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const double* a, std::int64_t lda, bool trans_a,
          const double* b, std::int64_t ldb, bool trans_b, double beta, double* c, std::int64_t ldc) {
  run_one(Item<double, double>{a, b, c}, {m, n, k, lda, ldb, ldc, trans_a, trans_b}, alpha, beta);
}

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const float* a, std::int64_t lda, bool trans_a,
          const float* b, std::int64_t ldb, bool trans_b, double beta, double* c, std::int64_t ldc) {
  run_one(Item<float, double>{a, b, c}, {m, n, k, lda, ldb, ldc, trans_a, trans_b}, alpha, beta);
}

void gemm_batch(std::span<const GemmItem<float>> items, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
                std::int64_t lda, bool trans_a, std::int64_t ldb, bool trans_b, float beta, std::int64_t ldc) {
  run_all(items, {m, n, k, lda, ldb, ldc, trans_a, trans_b}, alpha, beta);
}

void gemm_batch(std::span<const GemmItem<double>> items, std::int64_t m, std::int64_t n, std::int64_t k, double alpha,
                std::int64_t lda, bool trans_a, std::int64_t ldb, bool trans_b, double beta, std::int64_t ldc) {
  run_all(items, {m, n, k, lda, ldb, ldc, trans_a, trans_b}, alpha, beta);
}

}  // namespace onnxfold
