// Low-rank factors of a weight: truncated SVD, plain (Eckart-Young) or whitened by the inputs (SVD-LLM, CALDERA).
//
// Plain: A B is the nearest matrix of rank r to W [in, out]: ||W - A B||_F^2 is the sum of the dropped squared singular
// values. Whitened: with the inputs' second moment G = X'X = L L' (damped), the SVD of L' W is cut, so that ||X (W - A
// B)|| is least. Signs are fixed (the largest element of every left vector is positive), so that results do not flip.
#pragma once

#include <vector>

#include "analysis/algebra/matrix.h"
#include "ir/result.h"

namespace onnxfold {

struct Svd {
  Matrix u;                      // [rows, k], k = min(rows, cols)
  std::vector<double> singular;  // k, falling
  Matrix v;                      // [cols, k];  W = U diag(singular) V'
};
Svd svd(const Matrix& matrix);

struct LowRank {
  Matrix a;                      // [in, r]
  Matrix b;                      // [r, out]
  std::vector<double> singular;  // all of them, of W or of L'W: their tail is the error
};
// r is capped at min(in, out). `a` is U diag(S) (plain) or L'^-1 U diag(S) (whitened), `b` is V'.
LowRank low_rank(const Matrix& weight, std::int64_t rank);
// `gram` is X'X [in, in]. Errors: unsupported, when it stays indefinite after damping (relative to its mean diagonal).
Result<LowRank> whitened_low_rank(const Matrix& weight, const Matrix& gram, std::int64_t rank, double damping = 1e-6);

// The same A B with orthonormal columns of A (A = Q R; Q, R B). Whitening stretches A along directions that inputs
// seldom take; rounded to few bits, such a factor errs in all the others: on orthonormal columns the errors are those
// of W.
void orthonormalize(Matrix& a, Matrix& b);

// The same split W ~ A B from the eigenvectors of the smaller side, several times faster: A B projects W (whitened with
// `factor` = L of L L' = G, plain when null) onto its leading directions, so that full rank gives W back to rounding.
// Singular values below 1e-8 of the largest are noise. Columns of A and rows of B have equal norms.
LowRank projected_low_rank(const Matrix& weight, const Matrix* factor, std::int64_t rank);

}  // namespace onnxfold
