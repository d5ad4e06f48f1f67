// CumSum, CumProd.
#include <type_traits>

#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/parallel.h"

namespace onnxfold {
namespace {

template <typename T, bool kProduct>
void accumulate_lines(const AxisView& view, bool exclusive, bool reverse, const T* in, T* out) {
  // Integers wrap around, which unsigned arithmetic defines.
  using Sum = std::conditional_t<std::is_floating_point_v<T>, double, std::uint64_t>;
  const std::int64_t step = reverse ? -view.inner : view.inner;
  parallel_for(view.outer * view.inner, std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, view.dim)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t line = begin; line < end; ++line) {
                   std::int64_t at = line / view.inner * view.dim * view.inner + line % view.inner;
                   if (reverse) at += (view.dim - 1) * view.inner;
                   Sum total = kProduct ? 1 : 0;
                   for (std::int64_t i = 0; i < view.dim; ++i, at += step) {
                     const Sum before = total;
                     total = kProduct ? total * static_cast<Sum>(in[at]) : total + static_cast<Sum>(in[at]);
                     out[at] = static_cast<T>(exclusive ? before : total);
                   }
                 }
               });
}

template <bool kProduct>
Status cumulate(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array data = ctx.in(0);
  OF_ASSIGN(const std::vector<std::int64_t> given, to_int64s(ctx.in(1)));
  if (given.size() != 1) return ctx.invalid("axis must be one number");
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, given[0], data.rank()));
  const bool exclusive = ctx.attr("exclusive", std::int64_t{0}) != 0,
             reverse = ctx.attr("reverse", std::int64_t{0}) != 0;
  Array& out = ctx.out(0, data.dtype(), data.dims());
  const bool done = visit_numeric(data.storage(), [&]<typename T>(Tag<T>) {
    accumulate_lines<T, kProduct>(axis_view(data.dims(), axis), exclusive, reverse, data.data<T>(),
                                  out.mutable_data<T>());
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

}  // namespace

KernelRows cumulative_kernels() {
  static const KernelRow kRows[] = {{"CumSum", 11, cumulate<false>}, {"CumProd", 26, cumulate<true>}};
  return kRows;
}

}  // namespace onnxfold
