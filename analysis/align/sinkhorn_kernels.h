// The inner loops of Sinkhorn, vectorized for the CPU that runs them. Internal to analysis/align.
#pragma once

#include <cstdint>

namespace onnxfold {

double dot_product(const double* a, const double* b, std::int64_t n);
// sum += factor * row.
void add_scaled(double factor, const double* row, double* sum, std::int64_t n);
// out = exp(-cost / lambda).
void exp_of_costs(const double* cost, double lambda, double* out, std::int64_t n);

}  // namespace onnxfold
