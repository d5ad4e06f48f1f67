// Statistics of inner values over a data set: moments and Gram matrices in double, batch by batch, in batch order (same
// bits at any thread count).
//
// A value counts as rows of channels: its last axis holds the channels, all others are rows; channels-first images name
// their channel axis. Rows of padding (an input mask [batch, length] is 0 there) are left out.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "analysis/algebra/matrix.h"
#include "analysis/calibrate/dataset.h"
#include "analysis/calibrate/row_view.h"

namespace onnxfold {

// What one batch computed, by value name.
using Taps = std::map<std::string, Datum>;

// Which rows of a batch are no padding: 0/1 by [batch, length] of the mask input; empty: all.
struct RowMask {
  Dims dims;
  std::vector<char> keep;
};
// From the model's mask input, if the feeds hold one with an element that is 0.
RowMask row_mask(const Model& model, const Feeds& feeds);

// Rows [rows, channels] of a float array, masked where the mask's dims are the array's first two and the channels are
// last. `channel_axis` counts from the front, or from the back when negative. Errors: invalid_argument (not an array of
// numbers, rank 0). RowView::of has them without a copy.
Result<Matrix> rows_of(const Datum& datum, const RowMask& mask, int channel_axis = -1);

// Runs the model on every batch in float32 and hands over the values of these names (graph inputs, outputs and
// initializers included). Errors: those of the executor, invalid_argument for an unknown name, and the visitor's.
using BatchVisitor = std::function<Status(std::size_t batch, const Taps& taps, const RowMask& mask)>;
Status for_each_batch(const Model& model, const Dataset& data, const std::vector<std::string>& values,
                      const BatchVisitor& visit);
// The same for two models on the same data (teacher and student).
using PairVisitor =
    std::function<Status(std::size_t batch, const Taps& first, const Taps& second, const RowMask& mask)>;
Status for_each_batch(const Model& first, const std::vector<std::string>& first_values, const Model& second,
                      const std::vector<std::string>& second_values, const Dataset& data, const PairVisitor& visit);

// Moments of one value. By channel: sum, sum of magnitudes, largest magnitude.
struct Moments {
  std::int64_t rows = 0;
  std::vector<double> sum, sum_abs, max_abs, sum_squares;

  void add(const RowView& view);
  void add(const Matrix& matrix) { add(RowView::of(matrix)); }
  std::vector<double> mean() const;
};
// gram += X'X or X'Y in double. REQUIRES equal row counts; an empty gram is made.
void add_gram(Matrix& gram, const RowView& x, const RowView& y);
void add_gram(Matrix& gram, const Matrix& x, const Matrix& y);

struct ValueStatistics {
  Moments moments;
  Matrix gram;  // X'X [channels, channels]; empty when it was not asked for
};
// The Gram matrix of X with a column of ones behind it, the input of a weight with its bias as last row.
Matrix gram_with_ones(const ValueStatistics& statistics);
// Errors: see for_each_batch.
Result<std::map<std::string, ValueStatistics>> collect_statistics(const Model& model, const Dataset& data,
                                                                  const std::vector<std::string>& values,
                                                                  bool with_gram = true);

}  // namespace onnxfold
