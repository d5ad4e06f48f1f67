// Refit: a new weight from second moments, taken only when it does better on rows that it was not fitted to.
#pragma once

#include <span>
#include <vector>

#include "analysis/algebra/matrix.h"
#include "ir/result.h"

namespace onnxfold {

// Sums that are enough to solve for W in X W ~ Y and to know ||X W - Y||^2 for any W.
struct Regression {
  Matrix gram, cross;  // X'X [in, in], X'Y [in, out]
  double target_squares = 0;
  std::int64_t rows = 0;

  void add(const Matrix& x, const Matrix& y);
  void add(const Regression& other);
  // Sum of squares of X W - Y; never negative.
  double error(const Matrix& weight) const;
};

// Which rows of a batch are held out: those of every eighth sample, or the last eighth of the rows of each batch when
// the data has fewer than eight samples. Rows of a sample lie together.
std::vector<char> held_out_rows(std::int64_t rows, std::int64_t samples, std::int64_t first_sample,
                                std::int64_t all_samples);

struct SplitRegression {
  Regression fit, check;
  // REQUIRES equal row counts of x, y and held_out.
  void add(const Matrix& x, const Matrix& y, const std::vector<char>& held_out);
};

// Moments of inputs and of what a weight leaves over, R = Y - X P: a solution is a change of P. Nothing left over is
// exactly nothing to do, whatever the rounding of the moments.
struct LeftOver {
  SplitRegression moments;                  // X'X and X'R
  double fit_energy = 0, check_energy = 0;  // squares of Y, to relate errors to
};

struct Refit {
  Matrix weight;  // the prior when it was not accepted
  bool accepted = false;
  double damping = 0;
  double error_before = 0, error_after = 0;  // relative L2 error on held-out rows: of the prior, of the new weight
  std::int64_t rows = 0;                     // fitted and held out
};

// Solves by ridge toward the prior for each damping, keeps the one with the least held-out error, and solves once more
// on all rows with it. Not accepted when the held-out error does not fall, or when there are fewer than two rows for
// every row of the weight. Errors: those of ridge_solve.
Result<Refit> refit(const SplitRegression& data, const Matrix& prior, std::span<const double> dampings);
// The same from what `prior` leaves over. Looks downhill from the middle of the dampings (rising). Less than 1e-6 left
// over is rounding: not accepted.
Result<Refit> refit_left_over(const LeftOver& data, const Matrix& prior, std::span<const double> dampings);
// 1e-4 to 1: from trusting the data to hardly moving.
std::span<const double> default_dampings();

// x with a column of ones behind it (for a bias), and the weight with the bias as its last row.
Matrix with_ones(const Matrix& x);
Matrix with_bias_row(const Matrix& weight, const std::vector<double>& bias);

}  // namespace onnxfold
