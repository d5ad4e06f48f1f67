// MaxUnpool: values go back to where MaxPool took them from.
#include <fmt/format.h>

#include <algorithm>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"
#include "exec/kernels/window.h"

namespace onnxfold {
namespace {

// Shape of the pooled input as the window implies it; indices count through an array of this shape.
Result<Dims> implied_dims(const KernelContext& ctx, const Dims& x) {
  OF_ASSIGN(const Window w, read_window(ctx, spatial_dims(x), nullptr));
  Dims dims{x[0], x[1]};
  for (std::size_t i = 0; i < w.axes(); ++i) {
    dims.push_back((w.in[i] - 1) * w.strides[i] - w.pads_begin[i] - w.pads_end[i] + w.kernel[i]);
    if (dims.back() < 1) return ctx.invalid(fmt::format("output axis {} would be empty", i));
  }
  return dims;
}

Status max_unpool(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array &x = ctx.in(0), &where = ctx.in(1);
  if (x.rank() < 3 || where.dims() != x.dims() || where.dtype() != DType::kInt64) {
    return ctx.invalid(fmt::format("X {} and indices {} must be alike, of rank 3 or more", dims_text(x.dims()),
                                   dims_text(where.dims())));
  }
  OF_ASSIGN(const Dims implied, implied_dims(ctx, x.dims()));
  Dims dims = implied;
  if (ctx.has(2)) {
    OF_ASSIGN(dims, to_int64s(ctx.in(2)));
    if (dims.size() != implied.size()) return ctx.invalid("output_shape has the wrong length");
  }
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] < implied[i]) return ctx.invalid("output_shape is smaller than the window implies");
  }
  Array& y = ctx.out(0, x.dtype(), dims);
  const std::int64_t limit = element_count(implied);
  const Dims strides = row_major_strides(dims);
  for (std::int64_t i = 0; i < x.size(); ++i) {
    const std::int64_t at = where.data<std::int64_t>()[i];
    if (at < 0 || at >= limit) return ctx.invalid(fmt::format("index {} is out of range", at));
  }
  visit_movable(x.storage(), [&]<typename T>(Tag<T>) {
    std::fill_n(y.mutable_data<T>(), y.size(), T{});
    for (std::int64_t i = 0; i < x.size(); ++i) {
      std::int64_t rest = where.data<std::int64_t>()[i], at = 0;
      for (std::size_t axis = implied.size(); axis-- > 0; rest /= implied[axis])
        at += rest % implied[axis] * strides[axis];
      y.mutable_data<T>()[at] = x.data<T>()[i];
    }
  });
  return {};
}

constexpr KernelRow kRows[] = {{"MaxUnpool", 9, max_unpool}};

}  // namespace

KernelRows unpool_kernels() { return kRows; }

}  // namespace onnxfold
