// Optimal transport between two sets of neurons with uniform weights: which neuron goes how much to which.
//
// A plan P [n0, n1] has rows that sum to 1/n0 and columns that sum to 1/n1, and makes sum P_ij cost_ij small.
#pragma once

#include "analysis/algebra/matrix.h"
#include "ir/result.h"

namespace onnxfold {

// The least cost there is. Square: an assignment (a permutation over n). Otherwise: network simplex (LEMON).
// Errors: invalid_argument for a cost that is not finite.
Result<Matrix> exact_transport(const Matrix& cost);

struct SinkhornOptions {
  double lambda = 0.08;     // weight of the plan's entropy, in units of the cost
  int iterations = 1000;    // at most
  double tolerance = 1e-9;  // of the column sums (Euclidean norm), looked at every ten iterations
};

// Entropic transport (Cuturi, 2013): P = diag(u) exp(-cost / lambda) diag(v). In the log domain where exp would vanish
// (cost / lambda above 600 somewhere). Same bits at any thread count. Errors: invalid_argument for a cost that is not
// finite or lambda not positive.
Result<Matrix> sinkhorn(const Matrix& cost, const SinkhornOptions& options);

// Mean over the columns of the largest share: 1 for a plan that sends one neuron to each, 1/n0 for the uniform one.
double sharpness(const Matrix& plan);
// sum P_ij cost_ij.
double transport_cost(const Matrix& plan, const Matrix& cost);

}  // namespace onnxfold
