// Seeded normal matrices.
#pragma once

#include <cstdint>
#include <random>

#include "analysis/algebra/matrix.h"

namespace onnxfold::test {

inline Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Matrix matrix(rows, cols);
  for (double& element : matrix.data) element = normal(random);
  return matrix;
}

}  // namespace onnxfold::test
