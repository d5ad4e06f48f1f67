#include "analysis/align/axis_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/structure/correspondence.h"

namespace onnxfold {
namespace {

struct Split {
  std::int64_t outer = 1, size = 1, inner = 1;
};

Split split_at(const Dims& dims, int axis) {
  Split split;
  for (int i = 0; i < static_cast<int>(dims.size()); ++i) {
    const std::int64_t dim = dims[static_cast<std::size_t>(i)];
    (i < axis ? split.outer : i == axis ? split.size : split.inner) *= dim;
  }
  return split;
}

Matrix slice(const Weight& weight, std::int64_t index, std::int64_t rows, std::int64_t cols) {
  const auto begin = weight.data.begin() + index * rows * cols;
  return Matrix(rows, cols, std::vector<double>(begin, begin + rows * cols));
}

}  // namespace

Result<Weight> weight_of(const Value& constant) {
  const Tensor& tensor = *parameter(&constant);
  OF_ASSIGN(std::vector<double> numbers, to_doubles(tensor));
  const auto bad = std::find_if(numbers.begin(), numbers.end(), [](double x) { return !std::isfinite(x); });
  if (bad != numbers.end()) {
    return fail(Code::kInvalidArgument, fmt::format("weight '{}' holds {} at element {}", constant.name(),
                                                    std::isnan(*bad) ? "NaN" : "infinity", bad - numbers.begin()));
  }
  return Weight{tensor.dims(), std::move(numbers)};
}

std::optional<std::vector<std::int64_t>> permutation_of(const Matrix& map) {
  if (map.rows != map.cols) return {};
  std::vector<std::int64_t> row_of(static_cast<std::size_t>(map.cols), -1);
  for (std::int64_t i = 0; i < map.rows; ++i) {
    std::int64_t ones = 0;
    for (std::int64_t j = 0; j < map.cols; ++j) {
      const double x = map.at(i, j);
      if (x == 0) continue;
      if (x != 1 || ++ones > 1 || row_of[static_cast<std::size_t>(j)] >= 0) return {};
      row_of[static_cast<std::size_t>(j)] = i;
    }
    if (ones == 0) return {};
  }
  return row_of;
}

Weight mapped(const Weight& weight, int axis, const Matrix& map) {
  const Split split = split_at(weight.dims, axis);
  Weight result;
  result.dims = weight.dims;
  result.dims[static_cast<std::size_t>(axis)] = map.cols;
  if (const auto row_of = permutation_of(map)) {
    result.data.resize(weight.data.size());
    for (std::int64_t i = 0; i < split.outer; ++i) {
      const std::int64_t start = i * split.size;
      for (std::int64_t j = 0; j < split.size; ++j) {
        const std::int64_t from = start + (*row_of)[static_cast<std::size_t>(j)];
        std::copy_n(weight.data.begin() + from * split.inner, split.inner,
                    result.data.begin() + (start + j) * split.inner);
      }
    }
    return result;
  }
  if (split.inner == 1) {
    result.data = product(Matrix(split.outer, split.size, weight.data), map).data;
    return result;
  }
  result.data.reserve(static_cast<std::size_t>(split.outer * map.cols * split.inner));
  for (std::int64_t i = 0; i < split.outer; ++i) {
    const Matrix part = product(map, slice(weight, i, split.size, split.inner), true);
    result.data.insert(result.data.end(), part.data.begin(), part.data.end());
  }
  return result;
}

Matrix cross_gram(const Weight& a, const Weight& b, int axis) {
  const Split x = split_at(a.dims, axis), y = split_at(b.dims, axis);
  if (x.inner == 1) return product(Matrix(x.outer, x.size, a.data), Matrix(y.outer, y.size, b.data), true);
  Matrix result(x.size, y.size);
  for (std::int64_t i = 0; i < x.outer; ++i) {
    result = sum(result, product(slice(a, i, x.size, x.inner), slice(b, i, y.size, y.inner), false, true));
  }
  return result;
}

}  // namespace onnxfold
