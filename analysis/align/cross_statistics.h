// Second moments of two models' neurons over the same rows: how similar they are, and how far apart.
#pragma once

#include <vector>

#include "analysis/algebra/matrix.h"
#include "analysis/calibrate/statistics.h"

namespace onnxfold {

struct CrossStatistics {
  Matrix cross;  // X'Y [n0, n1], summed over batches
  Moments first, second;

  // REQUIRES equal row counts.
  void add(const RowView& x, const RowView& y);
  // (X - mean)'(Y - mean).
  Matrix centred() const;
  // The same, divided by both norms: its trace is 1 for equal features.
  Matrix scaled() const;
  // Pearson correlation; 0 for neurons that are constant.
  Matrix correlation() const;
};

// How similar every neuron is to every other, in [-1, 1], and which neurons say anything at all.
struct Similarity {
  Matrix values;                    // [n0, n1]
  std::vector<char> first, second;  // 0: constant (or zero) features
  // Of features as they are: inner products, and squared lengths. Empty unless keep_products was called.
  Matrix products = {};
  std::vector<double> first_squares = {}, second_squares = {};
};
// Of standardised features (mean 0, deviation 1): correlation.
Similarity similarity_of(const CrossStatistics& statistics);
// Of features scaled to unit length, given as columns [features, n]: cosine.
Similarity similarity_of(const Matrix& x, const Matrix& y);
// For neurons that turn together: their lengths count.
void keep_products(Similarity& similarity, const CrossStatistics& statistics);
void keep_products(Similarity& similarity, const Matrix& x, const Matrix& y);
// Columns with their means taken off and scaled to unit length; of a single row: nothing is done.
Matrix standardised(const Matrix& x);

// Euclidean distances of the normalised features, sqrt(|x|^2 + |y|^2 - 2 x'y), divided by the largest: [0, 1].
Matrix distances(const Similarity& similarity);
// |x_i - y_j| of neurons with one number each, divided by the largest.
Matrix distances(const std::vector<double>& x, const std::vector<double>& y);

}  // namespace onnxfold
