// Matrix products of row-major matrices: the one place that calls oneDNN's sgemm, and products in double.
//
// Every product is cut into tiles whose size depends on the shapes alone, and one thread computes a tile, so results
// have the same bits at any number of threads. Float sums are oneDNN's (float accumulators); double is used in float64
// mode.
#pragma once

#include <cstdint>
#include <span>

namespace onnxfold {

// C = alpha * op(A) * op(B) + beta * C, where op(A) is [m, k], op(B) is [k, n], C is [m, n] and op transposes when its
// flag is set. lda, ldb, ldc: elements between rows as stored. C is not read when beta is 0. k may be 0.
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const float* a, std::int64_t lda, bool trans_a,
          const float* b, std::int64_t ldb, bool trans_b, float beta, float* c, std::int64_t ldc);
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const double* a, std::int64_t lda, bool trans_a,
          const double* b, std::int64_t ldb, bool trans_b, double beta, double* c, std::int64_t ldc);
// Sums of floats in double: the bits of the product above on converted factors, without a copy of them.
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const float* a, std::int64_t lda, bool trans_a,
          const float* b, std::int64_t ldb, bool trans_b, double beta, double* c, std::int64_t ldc);

// One product of a batch. The outputs of a batch must not overlap.
template <typename T>
struct GemmItem {
  const T* a;
  const T* b;
  T* c;
};

// The same product for every item. Items run side by side, each in one thread, when there are many.
void gemm_batch(std::span<const GemmItem<float>> items, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
                std::int64_t lda, bool trans_a, std::int64_t ldb, bool trans_b, float beta, std::int64_t ldc);
void gemm_batch(std::span<const GemmItem<double>> items, std::int64_t m, std::int64_t n, std::int64_t k, double alpha,
                std::int64_t lda, bool trans_a, std::int64_t ldb, bool trans_b, double beta, std::int64_t ldc);

// While it lives, oneDNN calls of this thread use no other threads: their results, and the primitives they choose, then
// do not depend on the number of threads.
class SingleThreadScope {
 public:
  SingleThreadScope();
  ~SingleThreadScope();
  SingleThreadScope(const SingleThreadScope&) = delete;
  SingleThreadScope& operator=(const SingleThreadScope&) = delete;

 private:
  int before_;
};

}  // namespace onnxfold
