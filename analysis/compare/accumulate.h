// Running sums behind OutputMetrics, one per output, fed batch by batch.
#pragma once

#include "analysis/calibrate/statistics.h"
#include "analysis/compare/metrics.h"

namespace onnxfold {

class OutputAccumulator {
 public:
  explicit OutputAccumulator(std::string output) { metrics_.output = std::move(output); }
  // Rows that `padding` leaves out (see padding.h) count in nothing but `exact`, `new_nan_or_inf` and `elements`.
  // Errors: invalid_argument, when the two are of different kinds (array against sequence).
  Status add(const Datum& before, const Datum& after, std::size_t batch, const RowMask& padding = {});
  OutputMetrics result() const;

 private:
  // Numbers of one batch of an output, of both models.
  struct Batch {
    const std::vector<double>& a;
    const std::vector<double>& b;
    const Dims& dims;
    const std::vector<char>& keep;  // by row of the last axis; empty: all
    bool counts(std::size_t element) const {
      return keep.empty() || keep[element / static_cast<std::size_t>(dims.back())] != 0;
    }
  };
  Status add_arrays(const Array& before, const Array& after, std::size_t batch, const RowMask& padding);
  void add_numbers(const Batch& numbers, std::size_t batch);
  void add_cosines(const Batch& numbers);
  void add_rows(const Batch& numbers);

  OutputMetrics metrics_;
  double signal_ = 0, noise_ = 0;
  double kl_ = 0;
  std::int64_t rows_ = 0, agreeing_ = 0;
};

}  // namespace onnxfold
