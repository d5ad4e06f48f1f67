#include "passes/merge/transport_maps.h"

#include <algorithm>

#include "analysis/align/axis_map.h"

namespace onnxfold {
namespace {

Matrix scaled(const Matrix& matrix, double factor) {
  Matrix result = matrix;
  for (double& x : result.data) x *= factor;
  return result;
}

}  // namespace

TransportMap output_map(const Matrix& plan) {
  return std::make_shared<const Matrix>(scaled(plan, static_cast<double>(plan.cols)));
}

Matrix input_map(const Matrix& map) {
  return scaled(map, static_cast<double>(map.rows) / static_cast<double>(map.cols));
}

TransportMap repeated_by_head(const TransportMap& map, std::int64_t heads_from, std::int64_t heads_to,
                              std::int64_t repeats) {
  if (repeats == 1) return map;
  const std::int64_t from = map->rows / std::max<std::int64_t>(heads_from, 1),
                     to = map->cols / std::max<std::int64_t>(heads_to, 1);
  Matrix result(map->rows * repeats, map->cols * repeats);
  for (std::int64_t i = 0; i < map->rows; ++i) {
    for (std::int64_t j = 0; j < map->cols; ++j) {
      for (std::int64_t r = 0; r < repeats; ++r) {
        result.at((i / from * repeats + r) * from + i % from, (j / to * repeats + r) * to + j % to) = map->at(i, j);
      }
    }
  }
  return std::make_shared<const Matrix>(std::move(result));
}

Matrix chosen_columns(const Matrix& weight, const std::vector<std::int64_t>& columns) {
  if (columns.empty()) return weight;
  Matrix result(weight.rows, static_cast<std::int64_t>(columns.size()));
  for (std::int64_t i = 0; i < weight.rows; ++i) {
    for (std::int64_t j = 0; j < result.cols; ++j) {
      result.at(i, j) = weight.at(i, columns[static_cast<std::size_t>(j)]);
    }
  }
  return result;
}

Matrix column_range(const Matrix& matrix, std::int64_t begin, std::int64_t count) {
  Matrix result(matrix.rows, count);
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    for (std::int64_t j = 0; j < count; ++j) result.at(i, j) = matrix.at(i, begin + j);
  }
  return result;
}

Matrix reordered_rows(const Matrix& weight, const std::vector<std::int64_t>& rows) {
  if (rows.size() != static_cast<std::size_t>(weight.rows)) return weight;
  Matrix result(0, weight.cols);
  for (const std::int64_t row : rows) {
    const auto begin = weight.data.begin() + row * weight.cols;
    result.data.insert(result.data.end(), begin, begin + weight.cols);
    ++result.rows;
  }
  return result;
}

void append_below(Matrix& whole, const Matrix& part) {
  whole.data.insert(whole.data.end(), part.data.begin(), part.data.end());
  whole.rows += part.rows;
  whole.cols = part.cols;
}

void append_right(Matrix& whole, const Matrix& part) {
  if (whole.empty()) {
    whole = part;
    return;
  }
  whole = transposed(whole);
  append_below(whole, transposed(part));
  whole = transposed(whole);
}

Matrix mapped_columns(const Matrix& rows, const Matrix& map) {
  return Matrix(rows.rows, map.cols, mapped(Weight{{rows.rows, rows.cols}, rows.data}, 1, map).data);
}

}  // namespace onnxfold
