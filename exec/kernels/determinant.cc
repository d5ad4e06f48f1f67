// Det: by elimination with row exchanges, in double.
#include <cmath>
#include <utility>

#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

double determinant(std::vector<double>& a, std::size_t n) {
  double result = 1;
  for (std::size_t k = 0; k < n; ++k) {
    std::size_t pivot = k;
    for (std::size_t i = k + 1; i < n; ++i) {
      if (std::abs(a[i * n + k]) > std::abs(a[pivot * n + k])) pivot = i;
    }
    if (a[pivot * n + k] == 0) return 0;
    if (pivot != k) {
      for (std::size_t j = 0; j < n; ++j) std::swap(a[k * n + j], a[pivot * n + j]);
      result = -result;
    }
    result *= a[k * n + k];
    for (std::size_t i = k + 1; i < n; ++i) {
      const double factor = a[i * n + k] / a[k * n + k];
      for (std::size_t j = k; j < n; ++j) a[i * n + j] -= factor * a[k * n + j];
    }
  }
  return result;
}

Status det(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array x = ctx.in(0);
  if (x.rank() < 2 || x.dim(-1) != x.dim(-2)) return ctx.invalid("input must hold square matrices");
  const std::int64_t n = x.dim(-1);
  Array& y = ctx.out(0, x.dtype(), Dims(x.dims().begin(), x.dims().end() - 2));
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    for (std::int64_t i = 0; i < y.size(); ++i) {
      std::vector<double> matrix(x.data<T>() + i * n * n, x.data<T>() + (i + 1) * n * n);
      y.mutable_data<T>()[i] = static_cast<T>(determinant(matrix, static_cast<std::size_t>(n)));
    }
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

}  // namespace

KernelRows determinant_kernels() {
  static const KernelRow kRows[] = {{"Det", 11, det}};
  return kRows;
}

}  // namespace onnxfold
