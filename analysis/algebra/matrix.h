// Matrix: a dense matrix in double, row-major: what weights are while they are computed with.
#pragma once

#include <cstdint>
#include <vector>

namespace onnxfold {

struct Matrix {
  std::int64_t rows = 0, cols = 0;
  std::vector<double> data;

  Matrix() = default;
  Matrix(std::int64_t row_count, std::int64_t col_count)  // zeros
      : rows(row_count), cols(col_count), data(static_cast<std::size_t>(row_count * col_count)) {}
  Matrix(std::int64_t row_count, std::int64_t col_count, std::vector<double> elements)
      : rows(row_count), cols(col_count), data(std::move(elements)) {}

  double& at(std::int64_t row, std::int64_t col) { return data[static_cast<std::size_t>(row * cols + col)]; }
  double at(std::int64_t row, std::int64_t col) const { return data[static_cast<std::size_t>(row * cols + col)]; }
  bool empty() const { return data.empty(); }
};

Matrix identity_matrix(std::int64_t size);
Matrix transposed(const Matrix& matrix);
// op(A) op(B), where op transposes when its flag is set. Same bits at any thread count. REQUIRES matching dimensions.
Matrix product(const Matrix& a, const Matrix& b, bool transpose_a = false, bool transpose_b = false);
// a + factor * b. REQUIRES equal dimensions.
Matrix sum(const Matrix& a, const Matrix& b, double factor = 1);
double frobenius_norm(const Matrix& matrix);

}  // namespace onnxfold
