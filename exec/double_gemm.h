// The inner product loops of gemm in double, vectorized for the CPU that runs them. Internal to exec.
#pragma once

#include <cstdint>

namespace onnxfold {

// Operand of a product: element (i, k) at data[i * row_stride + k * column_stride].
template <typename T>
struct ProductOperand {
  const T* data;
  std::int64_t row_stride, column_stride;
};

// C += alpha * A * B, A [m, k], B [k, n], C [m, n] with `ldc` elements between rows. One thread; the order of the sums
// depends on k alone. Floats are converted while they are packed: the bits are those of operands converted before.
void add_double_product(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const ProductOperand<double>& a,
                        const ProductOperand<double>& b, double* c, std::int64_t ldc);
void add_double_product(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const ProductOperand<float>& a,
                        const ProductOperand<float>& b, double* c, std::int64_t ldc);

}  // namespace onnxfold
