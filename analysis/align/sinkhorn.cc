// Sinkhorn iterations, one pass over the kernel each: row i gives u_i = a / (K v)_i and adds u_i K_i to the column sums
// that the next v divides by.
#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/align/sinkhorn_kernels.h"
#include "analysis/align/transport.h"
#include "exec/parallel.h"

namespace onnxfold {
namespace {

using Vector = std::vector<double>;

// Rows are cut into pieces whose number depends on the size alone, so that sums have one order at any thread count.
constexpr std::int64_t kPieceElements = 1 << 17;

class Pieces {
 public:
  Pieces(std::int64_t rows, std::int64_t cols)
      : rows_(rows), count_(std::clamp<std::int64_t>(rows * cols / kPieceElements, 1, 16)) {}
  std::int64_t count() const { return count_; }
  std::int64_t begin(std::int64_t piece) const { return rows_ * piece / count_; }

 private:
  std::int64_t rows_, count_;
};

bool usable(const Vector& values) {
  return std::all_of(values.begin(), values.end(), [](double x) { return std::isfinite(x) && x > 0; });
}

// ---- multiplicative form ----
class Scaling {
 public:
  Scaling(const Matrix& cost, const SinkhornOptions& options)
      : options_(options),
        rows_(cost.rows),
        cols_(cost.cols),
        pieces_(cost.rows, cost.cols),
        kernel_(cost.rows, cost.cols),
        partial_(static_cast<std::size_t>(pieces_.count()), Vector(static_cast<std::size_t>(cost.cols))) {
    parallel_for(pieces_.count(), 1, [&](std::int64_t first, std::int64_t last) {
      const std::int64_t from = pieces_.begin(first) * cols_, to = pieces_.begin(last) * cols_;
      exp_of_costs(cost.data.data() + from, options_.lambda, kernel_.data.data() + from, to - from);
    });
  }

  Matrix run() {
    const double a = 1 / static_cast<double>(rows_), b = 1 / static_cast<double>(cols_);
    Vector u(static_cast<std::size_t>(rows_), a), v(static_cast<std::size_t>(cols_), b), sums;
    column_sums(u, sums);
    for (int iteration = 0; iteration < options_.iterations; ++iteration) {
      Vector next_v(v.size()), next_u(u.size());
      for (std::size_t j = 0; j < v.size(); ++j) next_v[j] = b / sums[j];
      if (!usable(next_v)) break;
      update(next_v, a, next_u, sums);
      if (!usable(next_u)) break;
      v.swap(next_v);
      u.swap(next_u);
      if (iteration % 10 == 0 && column_error(v, sums, b) < options_.tolerance) break;
    }
    parallel_for(rows_, std::max<std::int64_t>(1, kElementGrain / cols_), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        for (std::int64_t j = 0; j < cols_; ++j) {
          kernel_.at(i, j) *= u[static_cast<std::size_t>(i)] * v[static_cast<std::size_t>(j)];
        }
      }
    });
    return std::move(kernel_);
  }

 private:
  const double* row(std::int64_t i) const { return kernel_.data.data() + i * cols_; }

  void add_up(Vector& sums) const {
    sums.assign(static_cast<std::size_t>(cols_), 0);
    for (const Vector& part : partial_) {
      for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += part[j];
    }
  }
  void column_sums(const Vector& u, Vector& sums) {
    parallel_for(pieces_.count(), 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t piece = first; piece < last; ++piece) {
        Vector& part = partial_[static_cast<std::size_t>(piece)];
        std::fill(part.begin(), part.end(), 0.0);
        for (std::int64_t i = pieces_.begin(piece); i < pieces_.begin(piece + 1); ++i) {
          add_scaled(u[static_cast<std::size_t>(i)], row(i), part.data(), cols_);
        }
      }
    });
    add_up(sums);
  }
  void update(const Vector& v, double a, Vector& u, Vector& sums) {
    parallel_for(pieces_.count(), 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t piece = first; piece < last; ++piece) {
        Vector& part = partial_[static_cast<std::size_t>(piece)];
        std::fill(part.begin(), part.end(), 0.0);
        for (std::int64_t i = pieces_.begin(piece); i < pieces_.begin(piece + 1); ++i) {
          double& each = u[static_cast<std::size_t>(i)];
          each = a / dot_product(row(i), v.data(), cols_);
          add_scaled(each, row(i), part.data(), cols_);
        }
      }
    });
    add_up(sums);
  }
  static double column_error(const Vector& v, const Vector& sums, double b) {
    double squared = 0;
    for (std::size_t j = 0; j < v.size(); ++j) squared += (v[j] * sums[j] - b) * (v[j] * sums[j] - b);
    return std::sqrt(squared);
  }

  const SinkhornOptions& options_;
  std::int64_t rows_, cols_;
  Pieces pieces_;
  Matrix kernel_;
  std::vector<Vector> partial_;
};

// ---- log domain: f and g are potentials, P = exp((f + g - cost) / lambda) ----
class LogScaling {
 public:
  LogScaling(const Matrix& cost, const SinkhornOptions& options)
      : options_(options), cost_(cost), turned_(transposed(cost)) {}

  Matrix run() {
    const double a = 1 / static_cast<double>(cost_.rows), b = 1 / static_cast<double>(cost_.cols);
    Vector f(static_cast<std::size_t>(cost_.rows), 0), g(static_cast<std::size_t>(cost_.cols), 0);
    for (int iteration = 0; iteration < options_.iterations; ++iteration) {
      const Vector before = g;
      update(turned_, f, std::log(b), g);
      // Column sums before this update were b exp((before - g) / lambda).
      if (iteration % 10 == 1 && error(before, g, b) < options_.tolerance) break;
      update(cost_, g, std::log(a), f);
    }
    update(cost_, g, std::log(a), f);
    Matrix plan(cost_.rows, cost_.cols);
    for (std::int64_t i = 0; i < plan.rows; ++i) {
      for (std::int64_t j = 0; j < plan.cols; ++j) {
        plan.at(i, j) = std::exp((f[static_cast<std::size_t>(i)] + g[static_cast<std::size_t>(j)] - cost_.at(i, j)) /
                                 options_.lambda);
      }
    }
    return plan;
  }

 private:
  double error(const Vector& before, const Vector& after, double b) const {
    double squared = 0;
    for (std::size_t j = 0; j < after.size(); ++j) {
      const double off = b * (std::exp((before[j] - after[j]) / options_.lambda) - 1);
      squared += off * off;
    }
    return std::sqrt(squared);
  }
  // result_i = lambda (log_mass - log sum_j exp((other_j - cost_ij) / lambda)).
  void update(const Matrix& cost, const Vector& other, double log_mass, Vector& result) const {
    parallel_for(cost.rows, std::max<std::int64_t>(1, kElementGrain / 16 / cost.cols),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t i = begin; i < end; ++i) {
                     result[static_cast<std::size_t>(i)] =
                         options_.lambda * log_mass - soft_maximum(cost.data.data() + i * cost.cols, other);
                   }
                 });
  }
  double soft_maximum(const double* cost, const Vector& other) const {
    double largest = -std::numeric_limits<double>::infinity();
    for (std::size_t j = 0; j < other.size(); ++j) largest = std::max(largest, other[j] - cost[j]);
    double sum = 0;
    for (std::size_t j = 0; j < other.size(); ++j) sum += std::exp((other[j] - cost[j] - largest) / options_.lambda);
    return largest + options_.lambda * std::log(sum);
  }

  const SinkhornOptions& options_;
  const Matrix& cost_;
  Matrix turned_;
};

}  // namespace

Result<Matrix> sinkhorn(const Matrix& cost, const SinkhornOptions& options) {
  if (!(options.lambda > 0)) return fail(Code::kInvalidArgument, "sinkhorn: lambda must be positive");
  double largest = 0;
  for (const double x : cost.data) {
    if (!std::isfinite(x)) return fail(Code::kInvalidArgument, "sinkhorn: a cost is not finite");
    largest = std::max(largest, std::abs(x));
  }
  // exp(-600) times the scalings stays a normal number.
  if (largest / options.lambda > 600) return LogScaling(cost, options).run();
  return Scaling(cost, options).run();
}

}  // namespace onnxfold
