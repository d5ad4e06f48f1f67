// Closed-form orthogonal maps.
#pragma once

#include <vector>

#include "analysis/algebra/matrix.h"

namespace onnxfold {

// The orthogonal R that makes tr(R' M) largest: with M = X'Y it brings X R closest to Y (Schoenemann, 1966).
Matrix procrustes(const Matrix& cross);
// The same among those with R 1 = 1 (and R' 1 = 1): what commutes with the centring of LayerNorm.
Matrix centred_procrustes(const Matrix& cross);
// Sum of singular values: what the best R reaches.
double nuclear_norm(const Matrix& matrix);
// A permutation as a matrix: row i has its one in column `column_of[i]`.
Matrix permutation_matrix(const std::vector<std::int64_t>& column_of);
// Entries that are zeros and ones but for rounding become zeros and ones, if that holds for all of them.
void snap_to_permutation(Matrix& map);

}  // namespace onnxfold
