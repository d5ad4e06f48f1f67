// One shared matrix for several weights, and a low-rank correction for each: W_l ~ W' + A_l B_l.
//
// The error that counts is sum_l ||X_l (W_l - W' - A_l B_l)||^2 with G_l = X_l' X_l of the inputs of each layer, or the
// plain sum of squares where nothing is known of the inputs (G_l = I). G_l is damped by a share of its mean diagonal.
//
// Weights are loaded for every use and given back, so that a fit without grams holds two or three matrices of the
// weight's size at a time, however many weights there are.
#pragma once

#include <functional>
#include <vector>

#include "analysis/algebra/low_rank.h"

namespace onnxfold {

struct SharedFit {
  Matrix shared;                     // [in, out]
  std::vector<LowRank> corrections;  // one a weight, of this rank; of rank 0: empty matrices
  double error = 0;                  // what is left, see above
  // By weight: what its bias should be; empty, or empty for one: as it is.
  std::vector<std::vector<double>> biases;
};

// Weight number i; the same numbers at every call.
using WeightLoader = std::function<Result<Matrix>(std::size_t)>;

class SharedFitter {
 public:
  // `grams`: one a weight, or empty. Errors: unsupported, when a gram is not positive definite even at damping 1; those
  // of loading, here and everywhere below.
  static Result<SharedFitter> create(std::size_t count, WeightLoader load, const std::vector<const Matrix*>& grams,
                                     double damping = 1e-4);
  static Result<SharedFitter> create(std::vector<Matrix> weights, const std::vector<const Matrix*>& grams,
                                     double damping = 1e-4);

  std::size_t count() const { return count_; }
  Result<Matrix> weight(std::size_t index) const { return load_(index); }
  bool weighted() const { return !grams_.empty(); }
  // sum_l ||X_l W_l||^2: the unit of `error`.
  double energy() const { return energy_; }
  // Plain mean of the weights.
  Result<Matrix> average() const;
  // (sum G_l)^-1 sum G_l W_l: the least squares shared matrix without corrections. Plain mean without grams.
  Result<Matrix> weighted_mean() const;

  // W' as given; truncated (whitened where grams are known, unless `plain`) SVD of each residual.
  Result<SharedFit> correct(Matrix shared, std::int64_t rank, bool plain = false) const;
  // Alternates W' = mean of W_l - A_l B_l (weighted) and the truncated SVDs; the error never rises.
  Result<SharedFit> alternate(Matrix start, std::int64_t rank, int rounds) const;
  // Two weights, without grams: the least error there is. The components of the SVD of W_1 - W_2 go to both in turn.
  // With grams: the same split in the norm of both inputs together, or the weighted mean where that is better, then
  // `rounds` alternations. REQUIRES two weights.
  Result<SharedFit> closed_form(std::int64_t rank, int rounds) const;

 private:
  Result<double> error_of(const SharedFit& fit) const;
  // Without the correction.
  Result<Matrix> residual(std::size_t index, const Matrix& shared) const;
  Result<LowRank> difference_of_two(std::int64_t rank) const;
  Result<Matrix> mean_without(const std::vector<LowRank>& corrections) const;
  Result<SharedFit> improve(SharedFit fit, std::int64_t rank, int rounds) const;

  std::size_t count_ = 0;
  WeightLoader load_;
  std::vector<Matrix> grams_;    // damped
  std::vector<Matrix> factors_;  // their Cholesky factors
  Matrix total_;                 // sum of grams
  double energy_ = 0;
};

}  // namespace onnxfold
