// Running sums behind OutputMetrics, one per output, fed batch by batch.
#pragma once

#include "analysis/compare/metrics.h"

namespace onnxfold {

class OutputAccumulator {
 public:
  explicit OutputAccumulator(std::string output) { metrics_.output = std::move(output); }
  // Errors: invalid_argument, when the two are of different kinds (array against sequence).
  Status add(const Datum& before, const Datum& after, std::size_t batch);
  OutputMetrics result() const;

 private:
  Status add_arrays(const Array& before, const Array& after, std::size_t batch);
  void add_numbers(const std::vector<double>& a, const std::vector<double>& b, const Dims& dims, std::size_t batch);
  void add_cosines(const std::vector<double>& a, const std::vector<double>& b, const Dims& dims);
  void add_rows(const std::vector<double>& a, const std::vector<double>& b, std::int64_t width);

  OutputMetrics metrics_;
  double signal_ = 0, noise_ = 0;
  double kl_ = 0;
  std::int64_t rows_ = 0, agreeing_ = 0;
};

}  // namespace onnxfold
