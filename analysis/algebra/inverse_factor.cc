#include "analysis/algebra/inverse_factor.h"

#include <algorithm>
#include <cmath>

#include "exec/gemm.h"
#include "exec/parallel.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kBlock = 96;

// A square matrix in float, row-major, worked on block by block.
struct Blocked {
  std::int64_t n;
  std::vector<float>& data;
  float* at(std::int64_t i, std::int64_t j) { return data.data() + i * n + j; }
};

// With H = R R' for an upper R, U = R^-1. R is found from the last block to the first: the diagonal block by a double
// Cholesky from its end, the blocks above it by substitution, and then their product leaves what is before them.

// R of one diagonal block, in double; false when it is not positive definite.
bool factor_diagonal(Blocked m, std::int64_t first, std::int64_t count, std::vector<double>& r) {
  const auto at = [&](std::int64_t i, std::int64_t j) -> double& { return r[static_cast<std::size_t>(i * count + j)]; };
  r.assign(static_cast<std::size_t>(count * count), 0.0);
  for (std::int64_t j = count - 1; j >= 0; --j) {
    for (std::int64_t i = j; i >= 0; --i) {
      double sum = static_cast<double>(*m.at(first + i, first + j));
      for (std::int64_t k = j + 1; k < count; ++k) sum -= at(i, k) * at(j, k);
      if (i == j) {
        if (!(sum > 1e-9)) return false;  // of a matrix with unit diagonal; also NaN
        at(j, j) = std::sqrt(sum);
      } else {
        at(i, j) = sum / at(j, j);
      }
    }
  }
  return true;
}

// Rows above: X R' = A for each row, so X_j = (A_j - sum_{k>j} X_k R_jk) / R_jj from the last column on.
void solve_above(Blocked m, std::int64_t first, std::int64_t count, const std::vector<double>& r) {
  parallel_for(first, 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> x(static_cast<std::size_t>(count));
    for (std::int64_t row = begin; row < end; ++row) {
      float* a = m.at(row, first);
      for (std::int64_t j = count - 1; j >= 0; --j) {
        double sum = static_cast<double>(a[j]);
        const double* factor = r.data() + j * count;
        for (std::int64_t k = j + 1; k < count; ++k) sum -= x[static_cast<std::size_t>(k)] * factor[k];
        x[static_cast<std::size_t>(j)] = sum / factor[j];
      }
      for (std::int64_t j = 0; j < count; ++j) a[j] = static_cast<float>(x[static_cast<std::size_t>(j)]);
    }
  });
}

void store_diagonal(Blocked m, std::int64_t first, std::int64_t count, const std::vector<double>& r) {
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t j = 0; j < count; ++j) {
      *m.at(first + i, first + j) = static_cast<float>(r[static_cast<std::size_t>(i * count + j)]);
    }
  }
}

// In place of the upper triangle of a symmetric matrix: R. False when the matrix is not positive definite.
bool upper_cholesky(Blocked m) {
  std::vector<double> r;
  const std::int64_t blocks = (m.n + kBlock - 1) / kBlock;
  for (std::int64_t b = blocks - 1; b >= 0; --b) {
    const std::int64_t first = b * kBlock, count = std::min(kBlock, m.n - first);
    if (!factor_diagonal(m, first, count, r)) return false;
    store_diagonal(m, first, count, r);
    solve_above(m, first, count, r);
    constexpr std::int64_t kStripe = 4 * kBlock;
    for (std::int64_t col = 0; col < first; col += kStripe) {
      const std::int64_t cols = std::min(kStripe, first - col);
      gemm(col + cols, cols, count, -1.0F, m.at(0, first), m.n, false, m.at(col, first), m.n, true, 1.0F, m.at(0, col),
           m.n);
    }
  }
  for (std::int64_t i = 0; i < m.n; ++i) std::fill(m.at(i, 0), m.at(i, i), 0.0F);
  return true;
}

void invert_diagonal(Blocked m, std::int64_t first, std::int64_t count, std::vector<double>& inverse) {
  const auto at = [&](std::int64_t i, std::int64_t j) -> double& {
    return inverse[static_cast<std::size_t>(i * count + j)];
  };
  inverse.assign(static_cast<std::size_t>(count * count), 0.0);
  for (std::int64_t j = 0; j < count; ++j) {
    at(j, j) = 1 / static_cast<double>(*m.at(first + j, first + j));
    for (std::int64_t i = j - 1; i >= 0; --i) {
      double sum = 0;
      for (std::int64_t k = i + 1; k <= j; ++k) sum += static_cast<double>(*m.at(first + i, first + k)) * at(k, j);
      at(i, j) = -sum / static_cast<double>(*m.at(first + i, first + i));
    }
  }
}

// In place of an upper R: its inverse, block column by block column: U_ab = -U_aa (sum R_ak U_kb) has the form
// U_:b = -U_::<b R_:b U_bb once the columns before b are inverted.
void invert_upper(Blocked m) {
  std::vector<double> diagonal;
  std::vector<float> narrow, product;
  const std::int64_t blocks = (m.n + kBlock - 1) / kBlock;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::int64_t first = b * kBlock, count = std::min(kBlock, m.n - first);
    invert_diagonal(m, first, count, diagonal);
    narrow.assign(diagonal.begin(), diagonal.end());
    product.resize(static_cast<std::size_t>(first * count));
    if (first > 0) {
      constexpr std::int64_t kRows = 4 * kBlock;
      for (std::int64_t row = 0; row < first; row += kRows) {  // U is upper: rows from `row` on need columns from it on
        const std::int64_t rows = std::min(kRows, first - row);
        gemm(rows, count, first - row, 1.0F, m.at(row, row), m.n, false, m.at(row, first), m.n, false, 0.0F,
             product.data() + row * count, count);
      }
      gemm(first, count, count, -1.0F, product.data(), count, false, narrow.data(), count, false, 0.0F, m.at(0, first),
           m.n);
    }
    store_diagonal(m, first, count, diagonal);
  }
}

}  // namespace

Result<InverseFactor> inverse_factor(const Matrix& gram, double damping) {
  const std::int64_t n = gram.rows;
  double mean = 0;
  for (std::int64_t i = 0; i < n; ++i) mean += gram.at(i, i) / static_cast<double>(std::max<std::int64_t>(n, 1));
  if (!std::isfinite(mean)) return fail(Code::kUnsupported, "the second moment of the inputs holds NaN or infinity");
  if (mean <= 0) mean = 1;
  InverseFactor out{n, std::vector<float>(static_cast<std::size_t>(n * n)), std::max(damping, 1e-6)};
  std::vector<double> scale(static_cast<std::size_t>(n));
  for (;; out.damping *= 10) {
    for (std::int64_t i = 0; i < n; ++i) {
      const double d = gram.at(i, i) > 0 ? gram.at(i, i) : mean;
      scale[static_cast<std::size_t>(i)] = 1 / std::sqrt(d + out.damping * mean);
    }
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = i; j < n; ++j) {
        const double value =
            i == j ? 1.0 : gram.at(i, j) * scale[static_cast<std::size_t>(i)] * scale[static_cast<std::size_t>(j)];
        out.upper[static_cast<std::size_t>(i * n + j)] = static_cast<float>(value);
      }
    }
    if (upper_cholesky({n, out.upper})) break;
    if (out.damping > 1) return fail(Code::kUnsupported, "the second moment of the inputs stays indefinite");
  }
  invert_upper({n, out.upper});
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = i; j < n; ++j) {
      out.upper[static_cast<std::size_t>(i * n + j)] *= static_cast<float>(scale[static_cast<std::size_t>(j)]);
    }
  }
  return out;
}

}  // namespace onnxfold
