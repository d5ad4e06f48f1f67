// Softmax, LogSoftmax, Hardmax, LpNormalization.
#include <algorithm>
#include <cmath>

#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/parallel.h"
#include "exec/vector_math.h"

namespace onnxfold {
namespace {

// Before opset 13 everything from `axis` on was one row, and the default axis was 1.
Result<AxisView> rows_of(const KernelContext& ctx) {
  const Array& x = ctx.in(0);
  if (ctx.opset() >= 13) {
    OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{-1}), x.rank()));
    return axis_view(x.dims(), axis);
  }
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{1}), x.rank() + 1));
  AxisView view;
  for (std::size_t i = 0; i < x.dims().size(); ++i) (i < axis ? view.outer : view.dim) *= x.dims()[i];
  return view;
}

// Calls line(in, out, length, step) for every line along the axis.
template <typename F>
Status for_lines(KernelContext& ctx, const AxisView& view, F&& line) {
  const Array x = ctx.in(0);
  Array& y = ctx.out_over(0, 0, x.dtype(), x.dims());
  const std::int64_t grain = std::max<std::int64_t>(1, kElementGrain / 8 / std::max<std::int64_t>(1, view.dim));
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    parallel_for(view.outer * view.inner, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t at = i / view.inner * view.dim * view.inner + i % view.inner;
        line(in + at, out + at, view.dim, view.inner);
      }
    });
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

template <typename T>
T largest(const T* in, std::int64_t n, std::int64_t step) {
  T top = in[0];
  for (std::int64_t i = 1; i < n; ++i) top = std::max(top, in[i * step]);
  return top;
}

Status softmax(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  OF_ASSIGN(const AxisView view, rows_of(ctx));
  if (view.dim == 0) return for_lines(ctx, {0, 0, 1}, [](auto...) {});
  return for_lines(ctx, view, []<typename T>(const T* in, T* out, std::int64_t n, std::int64_t step) {
    if constexpr (std::is_same_v<T, float>) {
      if (step == 1) return softmax_row(in, out, n);
    }
    const T top = largest(in, n, step);
    double total = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const T value = std::exp(in[i * step] - top);
      out[i * step] = value;
      total += static_cast<double>(value);
    }
    const double scale = 1.0 / total;
    for (std::int64_t i = 0; i < n; ++i) out[i * step] = static_cast<T>(static_cast<double>(out[i * step]) * scale);
  });
}

Status log_softmax(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  OF_ASSIGN(const AxisView view, rows_of(ctx));
  if (view.dim == 0) return for_lines(ctx, {0, 0, 1}, [](auto...) {});
  return for_lines(ctx, view, []<typename T>(const T* in, T* out, std::int64_t n, std::int64_t step) {
    const T top = largest(in, n, step);
    double total = 0;
    for (std::int64_t i = 0; i < n; ++i) total += static_cast<double>(std::exp(in[i * step] - top));
    const double shift = static_cast<double>(top) + std::log(total);
    for (std::int64_t i = 0; i < n; ++i) out[i * step] = static_cast<T>(static_cast<double>(in[i * step]) - shift);
  });
}

Status hardmax(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  OF_ASSIGN(const AxisView view, rows_of(ctx));
  if (view.dim == 0) return for_lines(ctx, {0, 0, 1}, [](auto...) {});
  return for_lines(ctx, view, []<typename T>(const T* in, T* out, std::int64_t n, std::int64_t step) {
    std::int64_t best = 0;
    for (std::int64_t i = 1; i < n; ++i) best = in[i * step] > in[best * step] ? i : best;
    for (std::int64_t i = 0; i < n; ++i) out[i * step] = T(i == best ? 1 : 0);
  });
}

// Lines whose norm is 0 stay 0.
Status lp_normalization(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const std::int64_t p = ctx.attr("p", std::int64_t{2});
  if (p != 1 && p != 2) return ctx.unsupported("p other than 1 and 2");
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{-1}), ctx.in(0).rank()));
  return for_lines(ctx, axis_view(ctx.in(0).dims(), axis),
                   [p]<typename T>(const T* in, T* out, std::int64_t n, std::int64_t step) {
                     double total = 0;
                     for (std::int64_t i = 0; i < n; ++i) {
                       const auto x = static_cast<double>(in[i * step]);
                       total += p == 1 ? std::abs(x) : x * x;
                     }
                     const double norm = p == 1 ? total : std::sqrt(total);
                     for (std::int64_t i = 0; i < n; ++i)
                       out[i * step] = norm == 0 ? T(0) : static_cast<T>(static_cast<double>(in[i * step]) / norm);
                   });
}

}  // namespace

KernelRows softmax_kernels() {
  static const KernelRow kRows[] = {
      {"Softmax", 1, softmax},
      {"LogSoftmax", 1, log_softmax},
      {"Hardmax", 1, hardmax},
      {"LpNormalization", 1, lp_normalization},
  };
  return kRows;
}

}  // namespace onnxfold
