// Gelu, BiasGelu, FastGelu and QuickGelu of com.microsoft.
#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

// op(x), or op(x + bias) when input 1 is there; the bias broadcasts to x.
template <typename Op>
Status biased(KernelContext& ctx, Op op) {
  OF_TRY(ctx.need(1));
  const Array x = ctx.in(0);
  if (x.storage() != Storage::kFloat && x.storage() != Storage::kDouble) return ctx.unsupported("this element type");
  Array& y = ctx.out(0, x.dtype(), x.dims());
  if (!ctx.has(1)) {
    visit_float(x.storage(), [&]<typename T>(Tag<T>) {
      for (std::int64_t i = 0; i < x.size(); ++i) y.mutable_data<T>()[i] = op(x.data<T>()[i]);
    });
    return {};
  }
  const Array& bias = ctx.in(1);
  if (bias.storage() != x.storage() || broadcast_dims(bias.dims(), x.dims()) != x.dims()) {
    return ctx.invalid(
        fmt::format("bias of shape {} does not broadcast to {}", dims_text(bias.dims()), dims_text(x.dims())));
  }
  visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    map_binary(x.data<T>(), x.dims(), bias.data<T>(), bias.dims(), y.mutable_data<T>(), x.dims(),
               [op](T a, T b) { return op(a + b); });
  });
  return {};
}

Status gelu(KernelContext& ctx) {
  return biased(ctx, []<typename T>(T x) { return T(0.5) * x * (T(1) + std::erf(x / std::numbers::sqrt2_v<T>)); });
}

Status fast_gelu(KernelContext& ctx) {
  return biased(ctx, []<typename T>(T x) {
    const T inner = std::sqrt(T(2) / std::numbers::pi_v<T>) * (x + T(0.044715) * x * x * x);
    return T(0.5) * x * (T(1) + std::tanh(inner));
  });
}

Status quick_gelu(KernelContext& ctx) {
  const float alpha = ctx.attr("alpha", 1.702F);
  return biased(ctx, [=]<typename T>(T x) { return x / (T(1) + std::exp(-static_cast<T>(alpha) * x)); });
}

constexpr KernelRow kRows[] = {
    {"BiasGelu", 1, gelu, "com.microsoft"},
    {"FastGelu", 1, fast_gelu, "com.microsoft"},
    {"Gelu", 1, gelu, "com.microsoft"},
    {"QuickGelu", 1, quick_gelu, "com.microsoft"},
};

}  // namespace

KernelRows gelu_ort_kernels() { return kRows; }

}  // namespace onnxfold
