#include "analysis/align/cross_statistics.h"

#include <algorithm>
#include <cmath>

namespace onnxfold {
namespace {

// ||x - mean|| by channel.
std::vector<double> spreads(const Moments& moments) {
  std::vector<double> result = moments.mean();
  const double rows = static_cast<double>(std::max<std::int64_t>(moments.rows, 1));
  for (std::size_t i = 0; i < result.size(); ++i) {
    const double squared = moments.sum_squares[i] - rows * result[i] * result[i];
    // Of a constant neuron nothing is left but rounding.
    result[i] = squared > 1e-12 * moments.sum_squares[i] ? std::sqrt(squared) : 0;
  }
  return result;
}

double norm(const std::vector<double>& values) {
  double squared = 0;
  for (const double x : values) squared += x * x;
  return std::sqrt(squared);
}

std::vector<double> column_norms(const Matrix& x) {
  std::vector<double> squares(static_cast<std::size_t>(x.cols), 0);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    for (std::int64_t j = 0; j < x.cols; ++j) squares[static_cast<std::size_t>(j)] += x.at(i, j) * x.at(i, j);
  }
  for (double& each : squares) each = std::sqrt(each);
  return squares;
}

std::vector<double> squared(std::vector<double> values) {
  for (double& x : values) x *= x;
  return values;
}

void divide(Matrix& cross, const std::vector<double>& x, const std::vector<double>& y) {
  for (std::int64_t i = 0; i < cross.rows; ++i) {
    for (std::int64_t j = 0; j < cross.cols; ++j) {
      const double size = x[static_cast<std::size_t>(i)] * y[static_cast<std::size_t>(j)];
      cross.at(i, j) = size > 0 ? std::clamp(cross.at(i, j) / size, -1.0, 1.0) : 0;
    }
  }
}

std::vector<char> positive(const std::vector<double>& values) {
  std::vector<char> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(), [](double x) { return x > 0; });
  return result;
}

void divide_by_largest(Matrix& cost) {
  const double largest = cost.empty() ? 0 : *std::max_element(cost.data.begin(), cost.data.end());
  if (largest <= 0) return;
  for (double& each : cost.data) each /= largest;
}

}  // namespace

void CrossStatistics::add(const RowView& x, const RowView& y) {
  add_gram(cross, x, y);
  first.add(x);
  second.add(y);
}

Matrix CrossStatistics::centred() const {
  Matrix result = cross;
  const std::vector<double> x = first.mean(), y = second.mean();
  const double rows = static_cast<double>(std::max<std::int64_t>(first.rows, 1));
  for (std::int64_t i = 0; i < result.rows; ++i) {
    for (std::int64_t j = 0; j < result.cols; ++j) {
      result.at(i, j) -= rows * x[static_cast<std::size_t>(i)] * y[static_cast<std::size_t>(j)];
    }
  }
  return result;
}

Matrix CrossStatistics::scaled() const {
  Matrix result = centred();
  const double size = norm(spreads(first)) * norm(spreads(second));
  if (size > 0) {
    for (double& x : result.data) x /= size;
  }
  return result;
}

Matrix CrossStatistics::correlation() const { return similarity_of(*this).values; }

Similarity similarity_of(const CrossStatistics& statistics) {
  const std::vector<double> x = spreads(statistics.first), y = spreads(statistics.second);
  Similarity result{statistics.centred(), positive(x), positive(y), {}, {}, {}};
  divide(result.values, x, y);
  return result;
}

Similarity similarity_of(const Matrix& x, const Matrix& y) {
  const std::vector<double> a = column_norms(x), b = column_norms(y);
  Similarity result{product(x, y, true), positive(a), positive(b), {}, {}, {}};
  divide(result.values, a, b);
  return result;
}

void keep_products(Similarity& similarity, const CrossStatistics& statistics) {
  similarity.products = statistics.centred();
  similarity.first_squares = squared(spreads(statistics.first));
  similarity.second_squares = squared(spreads(statistics.second));
}

void keep_products(Similarity& similarity, const Matrix& x, const Matrix& y) {
  similarity.products = product(x, y, true);
  similarity.first_squares = squared(column_norms(x));
  similarity.second_squares = squared(column_norms(y));
}

Matrix standardised(const Matrix& x) {
  if (x.rows < 2) return x;
  Matrix result = x;
  Moments moments;
  moments.add(x);
  const std::vector<double> mean = moments.mean(), spread = spreads(moments);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    for (std::int64_t j = 0; j < x.cols; ++j) {
      const auto at = static_cast<std::size_t>(j);
      result.at(i, j) = spread[at] > 0 ? (x.at(i, j) - mean[at]) / spread[at] : 0;
    }
  }
  return result;
}

Matrix distances(const Similarity& similarity) {
  Matrix cost = similarity.values;
  for (std::int64_t i = 0; i < cost.rows; ++i) {
    for (std::int64_t j = 0; j < cost.cols; ++j) {
      const double squares =
          similarity.first[static_cast<std::size_t>(i)] + similarity.second[static_cast<std::size_t>(j)];
      cost.at(i, j) = std::sqrt(std::max(squares - 2 * cost.at(i, j), 0.0));
    }
  }
  divide_by_largest(cost);
  return cost;
}

Matrix distances(const std::vector<double>& x, const std::vector<double>& y) {
  Matrix cost(static_cast<std::int64_t>(x.size()), static_cast<std::int64_t>(y.size()));
  for (std::int64_t i = 0; i < cost.rows; ++i) {
    for (std::int64_t j = 0; j < cost.cols; ++j) {
      cost.at(i, j) = std::abs(x[static_cast<std::size_t>(i)] - y[static_cast<std::size_t>(j)]);
    }
  }
  divide_by_largest(cost);
  return cost;
}

}  // namespace onnxfold
