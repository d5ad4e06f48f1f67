// Elementwise operators of one input.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"
#include "exec/parallel.h"
#include "exec/vector_math.h"
#include "ir/intended_number.h"

namespace onnxfold {
namespace {

// Applies op to every element of a float input.
template <typename Op>
Status map_floats(KernelContext& ctx, Op op) {
  OF_TRY(ctx.need(1));
  const Array& x = ctx.in(0);
  if (x.storage() != Storage::kFloat && x.storage() != Storage::kDouble) return ctx.unsupported("this element type");
  Array& y = ctx.out_over(0, 0, x.dtype(), x.dims());
  visit_float(x.storage(), [&]<typename T>(Tag<T>) { map_unary(x.data<T>(), y.mutable_data<T>(), x.size(), op); });
  return {};
}

template <typename Op>
Status map_numbers(KernelContext& ctx, Op op) {
  OF_TRY(ctx.need(1));
  const Array& x = ctx.in(0);
  Array& y = ctx.out_over(0, 0, x.dtype(), x.dims());
  const bool done = visit_numeric(
      x.storage(), [&]<typename T>(Tag<T>) { map_unary(x.data<T>(), y.mutable_data<T>(), x.size(), op); });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

// Numbers to bool.
template <typename Op>
Status test_floats(KernelContext& ctx, Op op) {
  OF_TRY(ctx.need(1));
  const Array& x = ctx.in(0);
  Array& y = ctx.out(0, DType::kBool, x.dims());
  const bool done = visit_float(
      x.storage(), [&]<typename T>(Tag<T>) { map_unary(x.data<T>(), y.mutable_data<bool>(), x.size(), op); });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

// Kernels without attributes, as named functions for the table.
#define ONNXFOLD_FLOAT_KERNEL(name, expression)                                         \
  Status name(KernelContext& ctx) {                                                     \
    return map_floats(ctx, []<typename T>(T x) { return static_cast<T>(expression); }); \
  }
ONNXFOLD_FLOAT_KERNEL(acos, std::acos(x))
ONNXFOLD_FLOAT_KERNEL(acosh, std::acosh(x))
ONNXFOLD_FLOAT_KERNEL(asin, std::asin(x))
ONNXFOLD_FLOAT_KERNEL(asinh, std::asinh(x))
ONNXFOLD_FLOAT_KERNEL(atan, std::atan(x))
ONNXFOLD_FLOAT_KERNEL(atanh, std::atanh(x))
ONNXFOLD_FLOAT_KERNEL(ceil, std::ceil(x))
ONNXFOLD_FLOAT_KERNEL(cos, std::cos(x))
ONNXFOLD_FLOAT_KERNEL(cosh, std::cosh(x))
ONNXFOLD_FLOAT_KERNEL(floor, std::floor(x))
ONNXFOLD_FLOAT_KERNEL(hard_swish, x* std::clamp(x / T(6) + T(0.5), T(0), T(1)))
ONNXFOLD_FLOAT_KERNEL(log, std::log(x))
ONNXFOLD_FLOAT_KERNEL(mish, x* std::tanh(x > T(20) ? x : std::log1p(std::exp(x))))
ONNXFOLD_FLOAT_KERNEL(reciprocal, T(1) / x)
ONNXFOLD_FLOAT_KERNEL(round, std::nearbyint(x))
ONNXFOLD_FLOAT_KERNEL(sin, std::sin(x))
ONNXFOLD_FLOAT_KERNEL(sinh, std::sinh(x))
ONNXFOLD_FLOAT_KERNEL(softplus, x > T(0) ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)))
ONNXFOLD_FLOAT_KERNEL(softsign, x / (T(1) + std::abs(x)))
ONNXFOLD_FLOAT_KERNEL(sqrt, std::sqrt(x))
ONNXFOLD_FLOAT_KERNEL(tan, std::tan(x))
ONNXFOLD_FLOAT_KERNEL(tanh, std::tanh(x))
#undef ONNXFOLD_FLOAT_KERNEL

// Floats by `rows`, a function over many of them; doubles one by one.
template <typename Op>
Status map_vectors(KernelContext& ctx, void (*rows)(const float*, float*, std::int64_t), Op op) {
  if (!ctx.has(0) || ctx.in(0).storage() != Storage::kFloat) return map_floats(ctx, op);
  const Array& x = ctx.in(0);
  Array& y = ctx.out_over(0, 0, x.dtype(), x.dims());
  const float* in = x.data<float>();
  float* out = y.mutable_data<float>();
  parallel_for(x.size(), kElementGrain,
               [&](std::int64_t begin, std::int64_t end) { rows(in + begin, out + begin, end - begin); });
  return {};
}

Status exp(KernelContext& ctx) {
  return map_vectors(ctx, exp_floats, [](auto x) { return std::exp(x); });
}

Status sigmoid(KernelContext& ctx) {
  return map_vectors(ctx, sigmoid_floats, []<typename T>(T x) {
    return x >= T(0) ? T(1) / (T(1) + std::exp(-x)) : std::exp(x) / (T(1) + std::exp(x));
  });
}

Status erf(KernelContext& ctx) {
  return map_vectors(ctx, erf_floats, [](auto x) { return std::erf(x); });
}

Status abs(KernelContext& ctx) {
  return map_numbers(ctx, []<typename T>(T x) {
    if constexpr (std::is_floating_point_v<T>)
      return std::abs(x);
    else if constexpr (std::is_unsigned_v<T>)
      return x;
    else
      return static_cast<T>(x < 0 ? std::uint64_t{0} - static_cast<std::uint64_t>(x) : static_cast<std::uint64_t>(x));
  });
}

Status neg(KernelContext& ctx) {
  return map_numbers(ctx, []<typename T>(T x) {
    if constexpr (std::is_floating_point_v<T>)
      return -x;
    else
      return static_cast<T>(std::uint64_t{0} - static_cast<std::uint64_t>(x));
  });
}

Status sign(KernelContext& ctx) {
  return map_numbers(ctx, []<typename T>(T x) { return static_cast<T>(x > T{0} ? T{1} : x < T{0} ? T(-1) : x); });
}

Status relu(KernelContext& ctx) {
  return map_numbers(ctx, []<typename T>(T x) { return x < T{0} ? T{0} : x; });
}

Status is_nan(KernelContext& ctx) {
  return test_floats(ctx, [](auto x) { return std::isnan(x); });
}

Status is_inf(KernelContext& ctx) {
  const bool positive = ctx.attr("detect_positive", std::int64_t{1}) != 0;
  const bool negative = ctx.attr("detect_negative", std::int64_t{1}) != 0;
  return test_floats(ctx, [=](auto x) { return std::isinf(x) && (x > 0 ? positive : negative); });
}

Status leaky_relu(KernelContext& ctx) {
  const float alpha = ctx.attr("alpha", 0.01F);
  return map_floats(ctx, [=]<typename T>(T x) { return x < T(0) ? static_cast<T>(alpha) * x : x; });
}

Status thresholded_relu(KernelContext& ctx) {
  const float alpha = ctx.attr("alpha", 1.0F);
  return map_floats(ctx, [=]<typename T>(T x) { return x > static_cast<T>(alpha) ? x : T(0); });
}

Status elu(KernelContext& ctx) {
  const float alpha = ctx.attr("alpha", 1.0F);
  return map_floats(ctx, [=]<typename T>(T x) { return x < T(0) ? static_cast<T>(alpha) * std::expm1(x) : x; });
}

Status celu(KernelContext& ctx) {
  const float alpha = ctx.attr("alpha", 1.0F);
  return map_floats(ctx, [=]<typename T>(T x) {
    const T a = static_cast<T>(alpha);
    return std::max(T(0), x) + std::min(T(0), a * std::expm1(x / a));
  });
}

Status selu(KernelContext& ctx) {
  const float alpha = ctx.attr("alpha", 1.67326319217681884765625F),
              gamma = ctx.attr("gamma", 1.05070102214813232421875F);
  return map_floats(ctx, [=]<typename T>(T x) {
    return static_cast<T>(gamma) * (x > T(0) ? x : static_cast<T>(alpha) * std::expm1(x));
  });
}

Status hard_sigmoid(KernelContext& ctx) {
  // HardSwish is x * HardSigmoid(x) with alpha 1/6, which the attribute can only hold rounded.
  const double alpha = intended_number(ctx.attr("alpha", 0.2F)), beta = static_cast<double>(ctx.attr("beta", 0.5F));
  return map_floats(
      ctx, [=]<typename T>(T x) { return std::clamp(static_cast<T>(alpha) * x + static_cast<T>(beta), T(0), T(1)); });
}

Status swish(KernelContext& ctx) {
  const float alpha = ctx.attr("alpha", 1.0F);
  return map_floats(ctx, [=]<typename T>(T x) { return x / (T(1) + std::exp(-static_cast<T>(alpha) * x)); });
}

Status gelu(KernelContext& ctx) {
  if (ctx.attr("approximate", "none") == "tanh") {
    return map_floats(ctx, []<typename T>(T x) {
      const T inner = std::sqrt(T(2) / std::numbers::pi_v<T>) * (x + T(0.044715) * x * x * x);
      return T(0.5) * x * (T(1) + std::tanh(inner));
    });
  }
  return map_vectors(ctx, gelu_floats,
                     []<typename T>(T x) { return T(0.5) * x * (T(1) + std::erf(x / std::numbers::sqrt2_v<T>)); });
}

Status shrink(KernelContext& ctx) {
  const float lambda = ctx.attr("lambd", 0.5F), bias = ctx.attr("bias", 0.0F);
  return map_numbers(ctx, [=]<typename T>(T x) {
    const auto value = static_cast<double>(x), edge = static_cast<double>(lambda), move = static_cast<double>(bias);
    return static_cast<T>(value < -edge ? value + move : value > edge ? value - move : 0.0);
  });
}

Status logical_not(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array& x = ctx.in(0);
  if (x.storage() != Storage::kBool) return ctx.invalid("input must be bool");
  Array& y = ctx.out_over(0, 0, DType::kBool, x.dims());
  map_unary(x.data<bool>(), y.mutable_data<bool>(), x.size(), [](bool v) { return !v; });
  return {};
}

Status bitwise_not(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array& x = ctx.in(0);
  Array& y = ctx.out_over(0, 0, x.dtype(), x.dims());
  const bool done = visit_integer(x.storage(), [&]<typename T>(Tag<T>) {
    map_unary(x.data<T>(), y.mutable_data<T>(), x.size(), [](T v) { return static_cast<T>(~v); });
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

// The bound in input `i`, or before opset 11 in an attribute; `fallback` when it is not given.
template <typename T>
Result<T> clip_bound(const KernelContext& ctx, std::size_t i, std::string_view name, T fallback) {
  if (ctx.opset() < 11) {
    return ctx.node().attribute(name) == nullptr ? fallback : static_cast<T>(ctx.attr(name, 0.0F));
  }
  if (!ctx.has(i)) return fallback;
  if (ctx.in(i).size() != 1 || ctx.in(i).dtype() != ctx.in(0).dtype())
    return ctx.invalid("a bound is not a scalar of the input's type");
  return *ctx.in(i).data<T>();
}

template <typename T>
Status clip_typed(KernelContext& ctx) {
  using Limits = std::numeric_limits<T>;
  const T lowest = Limits::has_infinity ? -Limits::infinity() : Limits::lowest();
  const T highest = Limits::has_infinity ? Limits::infinity() : Limits::max();
  OF_ASSIGN(const T low, clip_bound<T>(ctx, 1, "min", lowest));
  OF_ASSIGN(const T high, clip_bound<T>(ctx, 2, "max", highest));
  const Array& x = ctx.in(0);
  Array& y = ctx.out_over(0, 0, x.dtype(), x.dims());
  // min(max(x, low), high), so that high wins when the bounds cross; NaN stays.
  map_unary(x.data<T>(), y.mutable_data<T>(), x.size(), [=](T v) {
    const T raised = v < low ? low : v;
    return raised > high ? high : raised;
  });
  return {};
}

Status clip(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  Status status;
  const bool done = visit_numeric(ctx.in(0).storage(), [&]<typename T>(Tag<T>) { status = clip_typed<T>(ctx); });
  if (!done) return ctx.unsupported("this element type");
  return status;
}

}  // namespace

KernelRows elementwise_unary_kernels() {
  static const KernelRow kRows[] = {
      {"Abs", 1, abs},
      {"Acos", 7, acos},
      {"Acosh", 9, acosh},
      {"Asin", 7, asin},
      {"Asinh", 9, asinh},
      {"Atan", 7, atan},
      {"Atanh", 9, atanh},
      {"BitwiseNot", 18, bitwise_not},
      {"Ceil", 1, ceil},
      {"Celu", 12, celu},
      {"Clip", 1, clip},
      {"Cos", 7, cos},
      {"Cosh", 9, cosh},
      {"Elu", 1, elu},
      {"Erf", 9, erf},
      {"Exp", 1, exp},
      {"Floor", 1, floor},
      {"Gelu", 20, gelu},
      {"HardSigmoid", 1, hard_sigmoid},
      {"HardSwish", 14, hard_swish},
      {"IsInf", 10, is_inf},
      {"IsNaN", 9, is_nan},
      {"LeakyRelu", 1, leaky_relu},
      {"Log", 1, log},
      {"Mish", 18, mish},
      {"Neg", 1, neg},
      {"Not", 1, logical_not},
      {"Reciprocal", 1, reciprocal},
      {"Relu", 1, relu},
      {"Round", 11, round},
      {"Selu", 1, selu},
      {"Shrink", 9, shrink},
      {"Sigmoid", 1, sigmoid},
      {"Sign", 9, sign},
      {"Sin", 7, sin},
      {"Sinh", 9, sinh},
      {"Softplus", 1, softplus},
      {"Softsign", 1, softsign},
      {"Sqrt", 1, sqrt},
      {"Swish", 24, swish},
      {"Tan", 7, tan},
      {"Tanh", 1, tanh},
      {"ThresholdedRelu", 10, thresholded_relu},
  };
  return kRows;
}

}  // namespace onnxfold
