#include "passes/tie/stored_weight.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "ir/mapped_file.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kAtOnce = 1 << 20;  // elements

Result<std::vector<double>> numbers_of(DType dtype, std::span<const std::byte> bytes, std::int64_t count) {
  if (dtype != DType::kFloat32) {
    return to_doubles(Tensor::owned(dtype, {count}, Buffer(bytes.begin(), bytes.end())));
  }
  std::vector<float> floats(static_cast<std::size_t>(count));  // regions of files may be misaligned
  std::memcpy(floats.data(), bytes.data(), bytes.size());
  return std::vector<double>(floats.begin(), floats.end());
}

// Rows of what is stored into their place; `across`: transposed.
void put_rows(const std::vector<double>& numbers, double alpha, std::int64_t begin, std::int64_t count, bool across,
              Matrix& weight) {
  if (!across) {
    double* to = weight.data.data() + begin * weight.cols;
    for (std::size_t i = 0; i < numbers.size(); ++i) to[i] = alpha * numbers[i];
    return;
  }
  constexpr std::int64_t kTile = 16;
  for (std::int64_t first = 0; first < weight.rows; first += kTile) {
    const std::int64_t last = std::min(first + kTile, weight.rows);
    for (std::int64_t row = 0; row < count; ++row) {
      const double* from = numbers.data() + row * weight.rows;
      for (std::int64_t col = first; col < last; ++col) weight.at(col, begin + row) = alpha * from[col];
    }
  }
}

}  // namespace

StoredWeight stored_weight(const Linear& linear) {
  return {*linear.weight->constant(), linear.in, linear.out, linear.stored_out_in, linear.alpha};
}

Result<Matrix> StoredWeight::matrix() const {
  const std::int64_t rows = out_in ? out : in, cols = out_in ? in : out;
  Matrix weight(in, out);
  if (rows * cols == 0) return weight;
  OF_ASSIGN(const Bytes bytes, tensor.bytes());
  const auto row_bytes = static_cast<std::int64_t>(bytes.size()) / rows;
  const std::int64_t step = std::max<std::int64_t>(1, kAtOnce / cols);
  for (std::int64_t begin = 0; begin < rows; begin += step) {
    const std::int64_t count = std::min(step, rows - begin);
    const auto part =
        bytes.span().subspan(static_cast<std::size_t>(begin * row_bytes), static_cast<std::size_t>(count * row_bytes));
    OF_ASSIGN(const std::vector<double> numbers, numbers_of(tensor.dtype(), part, count * cols));
    if (tensor.file() != nullptr) release_pages(part);
    put_rows(numbers, alpha, begin, count, out_in, weight);
  }
  return weight;
}

}  // namespace onnxfold
