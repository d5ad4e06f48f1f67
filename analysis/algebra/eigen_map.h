// Matrix as Eigen sees it; for files of analysis/algebra only.
#pragma once

#include <Eigen/Core>

#include "analysis/algebra/matrix.h"

namespace onnxfold {

using EigenRows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

inline Eigen::Map<const EigenRows> as_eigen(const Matrix& matrix) {
  return {matrix.data.data(), matrix.rows, matrix.cols};
}

inline Matrix from_eigen(const EigenRows& matrix) {
  return Matrix(matrix.rows(), matrix.cols(), std::vector<double>(matrix.data(), matrix.data() + matrix.size()));
}

}  // namespace onnxfold
