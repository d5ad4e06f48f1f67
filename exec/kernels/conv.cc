// Conv and FusedConv.
#include <fmt/format.h>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/activation.h"
#include "exec/kernels/convolve.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

Result<Array*> convolution(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array &x = ctx.in(0), &w = ctx.in(1);
  OF_ASSIGN(const Convolution conv, read_convolution(ctx, x.dims(), w.dims()));
  if (x.storage() != w.storage()) return ctx.invalid("X and W differ in type");
  const Array* bias = ctx.has(2) ? &ctx.in(2) : nullptr;
  if (bias && (bias->dims() != Dims{conv.filters} || bias->storage() != x.storage())) {
    return ctx.invalid(fmt::format("bias {} does not fit {} filters", dims_text(bias->dims()), conv.filters));
  }
  Dims dims{x.dim(0), conv.filters};
  dims.insert(dims.end(), conv.window.out.end() - (x.rank() - 2), conv.window.out.end());
  Array& y = ctx.out(0, x.dtype(), dims);
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    convolve(conv, x.data<T>(), w.data<T>(), bias ? bias->data<T>() : nullptr, y.mutable_data<T>());
  });
  if (!done) return ctx.unsupported("element type is not a float");
  return &y;
}

Status conv_kernel(KernelContext& ctx) {
  OF_TRY(convolution(ctx));
  return {};
}

// Conv, then an optional addend Z of the output's shape, then an activation.
Status fused_conv(KernelContext& ctx) {
  const std::vector<float> given = ctx.node().attr_floats("activation_params").value_or(std::vector<float>{});
  const auto parameter = [&](std::size_t i) { return i < given.size() ? std::optional(given[i]) : std::nullopt; };
  OF_ASSIGN(const Activation activation, find_activation(ctx, ctx.attr("activation", ""), parameter(0), parameter(1)));
  OF_ASSIGN(Array * y, convolution(ctx));
  if (ctx.has(3) && (ctx.in(3).dims() != y->dims() || ctx.in(3).storage() != y->storage())) {
    return ctx.invalid("Z differs from the output in shape or type");
  }
  visit_float(y->storage(), [&]<typename T>(Tag<T>) {
    T* values = y->mutable_data<T>();
    if (ctx.has(3)) {
      for (std::int64_t i = 0; i < y->size(); ++i) values[i] += ctx.in(3).data<T>()[i];
    }
    apply_activation(activation, values, y->size());
  });
  return {};
}

constexpr KernelRow kRows[] = {{"Conv", 1, conv_kernel}, {"FusedConv", 1, fused_conv, "com.microsoft"}};

}  // namespace

KernelRows conv_kernels() { return kRows; }

}  // namespace onnxfold
