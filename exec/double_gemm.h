// The inner product loops of gemm in double, vectorized for the CPU that runs them. Internal to exec.
#pragma once

#include <cstdint>

namespace onnxfold {

// Operand of a product: element (i, k) at data[i * row_stride + k * column_stride].
struct DoubleOperand {
  const double* data;
  std::int64_t row_stride, column_stride;
};

// C += alpha * A * B, A [m, k], B [k, n], C [m, n] with `ldc` elements between rows. One thread; the order of the sums
// depends on k alone.
void add_double_product(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const DoubleOperand& a,
                        const DoubleOperand& b, double* c, std::int64_t ldc);

}  // namespace onnxfold
