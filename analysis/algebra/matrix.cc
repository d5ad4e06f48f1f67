#include "analysis/algebra/matrix.h"

#include <cmath>

#include "exec/gemm.h"

namespace onnxfold {

Matrix identity_matrix(std::int64_t size) {
  Matrix result(size, size);
  for (std::int64_t i = 0; i < size; ++i) result.at(i, i) = 1;
  return result;
}

Matrix transposed(const Matrix& matrix) {
  Matrix result(matrix.cols, matrix.rows);
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    for (std::int64_t col = 0; col < matrix.cols; ++col) result.at(col, row) = matrix.at(row, col);
  }
  return result;
}

Matrix product(const Matrix& a, const Matrix& b, bool transpose_a, bool transpose_b) {
  const std::int64_t m = transpose_a ? a.cols : a.rows, k = transpose_a ? a.rows : a.cols;
  const std::int64_t n = transpose_b ? b.rows : b.cols;
  Matrix result(m, n);
  gemm(m, n, k, 1.0, a.data.data(), a.cols, transpose_a, b.data.data(), b.cols, transpose_b, 0.0, result.data.data(),
       n);
  return result;
}

Matrix sum(const Matrix& a, const Matrix& b, double factor) {
  Matrix result = a;
  for (std::size_t i = 0; i < result.data.size(); ++i) result.data[i] += factor * b.data[i];
  return result;
}

double frobenius_norm(const Matrix& matrix) {
  double squares = 0;
  for (const double element : matrix.data) squares += element * element;
  return std::sqrt(squares);
}

}  // namespace onnxfold
