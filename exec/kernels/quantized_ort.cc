// What ONNX Runtime's quantizers and its optimizer write beside the standard operators: DynamicQuantizeMatMul,
// MatMulIntegerToFloat, QGemm, and element-wise operators, joins and averages of codes (com.microsoft).
//
// Computed in double from what the codes stand for and rounded once: sums of 8-bit products are exact, results may
// differ from a runtime's by one code where float32 ends on the other side of a half.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/gemm.h"
#include "exec/kernels/dynamic_codes.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

using Doubles = std::vector<double>;

struct Codes {
  double scale = 1, zero = 0;
};

// One scale and one zero point (none: 0).
Result<Codes> codes_of(const KernelContext& ctx, std::size_t scale, std::size_t zero) {
  if (!ctx.has(scale)) return ctx.invalid("a scale is missing");
  OF_ASSIGN(const Doubles scales, to_doubles(ctx.in(scale)));
  Doubles zeros{0};
  if (ctx.has(zero)) {
    OF_ASSIGN(zeros, to_doubles(ctx.in(zero)));
  }
  if (scales.size() != 1 || zeros.size() != 1) return ctx.unsupported("a scale per row or channel here");
  return Codes{scales[0], zeros[0]};
}

Result<Doubles> decoded(const KernelContext& ctx, std::size_t at) {
  OF_ASSIGN(const Codes codes, codes_of(ctx, at + 1, at + 2));
  OF_ASSIGN(Doubles values, to_doubles(ctx.in(at)));
  for (double& value : values) value = (value - codes.zero) * codes.scale;
  return values;
}

Status encode(KernelContext& ctx, const Doubles& values, const Codes& codes, DType dtype, Dims dims) {
  Array& out = ctx.out(0, dtype, std::move(dims));
  const bool done = visit_integer(out.storage(), [&]<typename Q>(Tag<Q>) {
    Q* to = out.mutable_data<Q>();
    constexpr double kLow = std::numeric_limits<Q>::min();
    constexpr double kHigh = static_cast<double>(std::numeric_limits<Q>::max());
    for (std::size_t i = 0; i < values.size(); ++i) {
      to[i] = static_cast<Q>(std::clamp(std::nearbyint(values[i] / codes.scale) + codes.zero, kLow, kHigh));
    }
  });
  return done ? Status{} : ctx.unsupported("this output type");
}

template <typename Op>
Status binary(KernelContext& ctx, Op op) {
  OF_TRY(ctx.need(7));
  OF_ASSIGN(const Doubles a, decoded(ctx, 0));
  OF_ASSIGN(const Doubles b, decoded(ctx, 3));
  OF_ASSIGN(const Codes out, codes_of(ctx, 6, 7));
  const auto dims = broadcast_dims(ctx.in(0).dims(), ctx.in(3).dims());
  if (!dims) return ctx.invalid("the operands do not broadcast");
  Doubles values(static_cast<std::size_t>(element_count(*dims)));
  map_binary(a.data(), ctx.in(0).dims(), b.data(), ctx.in(3).dims(), values.data(), *dims, op);
  return encode(ctx, values, out, ctx.in(0).dtype(), *dims);
}

Status add(KernelContext& ctx) {
  return binary(ctx, [](double a, double b) { return a + b; });
}
Status multiply(KernelContext& ctx) {
  return binary(ctx, [](double a, double b) { return a * b; });
}

template <typename Op>
Status unary(KernelContext& ctx, Op op) {
  OF_TRY(ctx.need(4));
  OF_ASSIGN(Doubles values, decoded(ctx, 0));
  OF_ASSIGN(const Codes out, codes_of(ctx, 3, 4));
  for (double& value : values) value = op(value);
  return encode(ctx, values, out, ctx.in(0).dtype(), ctx.in(0).dims());
}

Status sigmoid(KernelContext& ctx) {
  return unary(ctx, [](double x) { return 1 / (1 + std::exp(-x)); });
}
Status leaky_relu(KernelContext& ctx) {
  const double alpha = ctx.attr("alpha", 0.01F);
  return unary(ctx, [alpha](double x) { return x < 0 ? alpha * x : x; });
}

// Mean over the positions of each channel.
Status global_average(KernelContext& ctx) {
  OF_TRY(ctx.need(4));
  const Dims dims = ctx.in(0).dims();
  if (dims.size() < 3) return ctx.invalid("has no positions to average");
  OF_ASSIGN(const Doubles values, decoded(ctx, 0));
  OF_ASSIGN(const Codes out, codes_of(ctx, 3, 4));
  const bool last = ctx.attr("channels_last", std::int64_t{0}) != 0;
  Dims made(dims.size(), 1);
  const std::size_t at = last ? dims.size() - 1 : 1;
  made[0] = dims[0];
  made[at] = dims[at];
  const std::int64_t channels = dims[at], count = element_count(dims) / std::max<std::int64_t>(1, dims[0] * channels);
  Doubles means(static_cast<std::size_t>(dims[0] * channels));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto index = static_cast<std::int64_t>(i);
    const std::int64_t batch = index / (channels * count);
    const std::int64_t channel = last ? index % channels : index / count % channels;
    means[static_cast<std::size_t>(batch * channels + channel)] += values[i] / static_cast<double>(count);
  }
  return encode(ctx, means, out, ctx.in(0).dtype(), made);
}

// As AveragePool, on what the codes stand for.
Status average(KernelContext& ctx) {
  OF_TRY(ctx.need(4));
  if (ctx.attr("channels_last", std::int64_t{0}) != 0) return ctx.unsupported("channels_last");
  OF_ASSIGN(const Doubles values, decoded(ctx, 0));
  OF_ASSIGN(const Codes out, codes_of(ctx, 3, 4));
  Array x(DType::kFloat32, ctx.in(0).dims(), Precision::kFloat64);
  std::copy(values.begin(), values.end(), x.mutable_data<double>());
  std::vector<Datum> inputs;
  inputs.emplace_back(std::move(x));
  static const SubgraphRunner kNone;
  constexpr std::int64_t kOpset = 19;  // of AveragePool
  KernelContext inner(ctx.node(), kOpset, Precision::kFloat64, std::move(inputs), kNone);
  for (const KernelRow& row : pool_kernels()) {
    if (row.op_type == "AveragePool") OF_TRY(row.run(inner));
  }
  const std::vector<Datum> made = inner.take_outputs();
  OF_ASSIGN(const Doubles means, to_doubles(made[0].array));
  return encode(ctx, means, out, ctx.in(0).dtype(), made[0].array.dims());
}

// Y_scale, Y_zero_point, then codes, scale and zero point of each part.
Status concat(KernelContext& ctx) {
  OF_TRY(ctx.need(5));
  if ((ctx.input_count() - 2) % 3 != 0) return ctx.invalid("its parts are no triples");
  OF_ASSIGN(const Codes out, codes_of(ctx, 0, 1));
  Dims dims = ctx.in(2).dims();
  std::int64_t axis = ctx.attr("axis", std::int64_t{0});
  if (axis < 0) axis += static_cast<std::int64_t>(dims.size());
  const auto at = static_cast<std::size_t>(axis);
  if (at >= dims.size()) return ctx.invalid("axis is out of range");
  dims[at] = 0;
  for (std::size_t i = 2; i < ctx.input_count(); i += 3) {
    Dims part = ctx.in(i).dims();
    if (part.size() != dims.size()) return ctx.invalid("its parts have different ranks");
    dims[at] += std::exchange(part[at], dims[at]);
    Dims rest = dims;
    rest[at] = part[at];
    if (rest != part) return ctx.invalid("its parts do not fit together");
  }
  std::int64_t inner = 1, outer = 1;
  for (std::size_t i = at + 1; i < dims.size(); ++i) inner *= dims[i];
  for (std::size_t i = 0; i < at; ++i) outer *= dims[i];
  Doubles values(static_cast<std::size_t>(element_count(dims)));
  std::int64_t begin = 0;
  for (std::size_t i = 2; i < ctx.input_count(); i += 3) {
    OF_ASSIGN(const Doubles part, decoded(ctx, i));
    const std::int64_t run = ctx.in(i).dims()[at] * inner;
    for (std::int64_t o = 0; o < outer; ++o) {
      std::copy_n(part.data() + o * run, run, values.data() + o * dims[at] * inner + begin);
    }
    begin += run;
  }
  return encode(ctx, values, out, ctx.in(2).dtype(), dims);
}

// Weights [K, N] (transposed: [N, K]) with one scale and zero point, or one a column of the product, as doubles [K, N].
Result<Doubles> weight_of(const KernelContext& ctx, std::size_t codes, std::size_t scale, std::size_t zero,
                          bool transposed) {
  const Array& stored = ctx.in(codes);
  if (stored.rank() != 2) return ctx.unsupported("a weight of another rank than 2");
  OF_ASSIGN(const Doubles from, to_doubles(stored));
  OF_ASSIGN(const Doubles scales, to_doubles(ctx.in(scale)));
  Doubles zeros{0};
  if (ctx.has(zero)) {
    OF_ASSIGN(zeros, to_doubles(ctx.in(zero)));
  }
  const std::int64_t n = stored.dim(transposed ? 0 : 1), k = stored.dim(transposed ? 1 : 0);
  const auto columns = static_cast<std::size_t>(n);
  if ((scales.size() != 1 && scales.size() != columns) || (zeros.size() != 1 && zeros.size() != columns)) {
    return ctx.invalid("scales or zero points of the weight do not fit its columns");
  }
  Doubles to(from.size());
  for (std::int64_t i = 0; i < k * n; ++i) {
    const auto column = static_cast<std::size_t>(i % n), row = static_cast<std::size_t>(i / n);
    const std::size_t source = transposed ? column * static_cast<std::size_t>(k) + row : static_cast<std::size_t>(i);
    to[static_cast<std::size_t>(i)] =
        (from[source] - zeros[zeros.size() == 1 ? 0 : column]) * scales[scales.size() == 1 ? 0 : column];
  }
  return to;
}

// a [.., K] times weight [K, N], plus bias [N].
Result<Doubles> times(const KernelContext& ctx, const Doubles& a, const Dims& dims, const Doubles& weight,
                      std::int64_t n, const Doubles& bias) {
  const std::int64_t k = dims.empty() ? 0 : dims.back();
  if (k == 0 || static_cast<std::int64_t>(weight.size()) != k * n) return ctx.invalid("the operands do not multiply");
  const std::int64_t m = element_count(dims) / k;
  Doubles out(static_cast<std::size_t>(m * n));
  if (!bias.empty() && static_cast<std::int64_t>(bias.size()) != n) return ctx.unsupported("a bias of another shape");
  for (std::size_t i = 0; !bias.empty() && i < out.size(); ++i) out[i] = bias[i % static_cast<std::size_t>(n)];
  gemm(m, n, k, 1.0, a.data(), k, false, weight.data(), n, false, 1.0, out.data(), n);
  return out;
}

Status to_floats(KernelContext& ctx, const Doubles& values, Dims dims, std::int64_t n) {
  dims.back() = n;
  Array& out = ctx.out(0, DType::kFloat32, std::move(dims));
  visit_float(out.storage(), [&]<typename T>(Tag<T>) {
    std::transform(values.begin(), values.end(), out.mutable_data<T>(), [](double x) { return static_cast<T>(x); });
  });
  return {};
}

Result<Doubles> bias_of(const KernelContext& ctx, std::size_t at) {
  return ctx.has(at) ? to_doubles(ctx.in(at)) : Result<Doubles>(Doubles());
}

// `a`, decoded from input 0, times the weight of input 1.
Status product_of(KernelContext& ctx, const Doubles& a, std::size_t scale, std::size_t zero, std::size_t bias_at) {
  OF_ASSIGN(const Doubles weight, weight_of(ctx, 1, scale, zero, false));
  OF_ASSIGN(const Doubles bias, bias_of(ctx, bias_at));
  const std::int64_t n = ctx.in(1).dim(1);
  OF_ASSIGN(const Doubles values, times(ctx, a, ctx.in(0).dims(), weight, n, bias));
  return to_floats(ctx, values, ctx.in(0).dims(), n);
}

// A in floats, B, b_scale, b_zero_point, bias.
Status dynamic_product(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  OF_ASSIGN(Doubles a, to_doubles(ctx.in(0)));
  round_dynamically(a.data(), static_cast<std::int64_t>(a.size()), a.data());
  return product_of(ctx, a, 2, 3, 4);
}

// A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias.
Status product_to_float(KernelContext& ctx) {
  OF_TRY(ctx.need(4));
  OF_ASSIGN(const Codes codes, codes_of(ctx, 2, 4));
  OF_ASSIGN(Doubles a, to_doubles(ctx.in(0)));
  for (double& value : a) value = (value - codes.zero) * codes.scale;
  return product_of(ctx, a, 3, 5, 6);
}

// A, a_scale, a_zero_point, B, b_scale, b_zero_point, C (int32 in steps of both scales), y_scale, y_zero_point.
Status qgemm(KernelContext& ctx) {
  OF_TRY(ctx.need(6));
  if (ctx.attr("transA", std::int64_t{0}) != 0) return ctx.unsupported("transA");
  const double alpha = ctx.attr("alpha", 1.0F);
  const bool transposed = ctx.attr("transB", std::int64_t{0}) != 0;
  OF_ASSIGN(const Codes codes, codes_of(ctx, 1, 2));
  OF_ASSIGN(const Doubles a, decoded(ctx, 0));
  OF_ASSIGN(Doubles weight, weight_of(ctx, 3, 4, 5, transposed));
  const std::int64_t n = ctx.in(3).dim(transposed ? 0 : 1);
  for (double& value : weight) value *= alpha;
  OF_ASSIGN(const Doubles scales, to_doubles(ctx.in(4)));
  OF_ASSIGN(Doubles bias, bias_of(ctx, 6));
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] *= alpha * codes.scale * scales[scales.size() == 1 ? 0 : i];
  if (bias.size() == 1) bias.resize(static_cast<std::size_t>(n), bias[0]);
  OF_ASSIGN(const Doubles values, times(ctx, a, ctx.in(0).dims(), weight, n, bias));
  Dims dims = ctx.in(0).dims();
  dims.back() = n;
  if (!ctx.has(7)) return to_floats(ctx, values, dims, n);
  OF_ASSIGN(const Codes out, codes_of(ctx, 7, 8));
  return encode(ctx, values, out, ctx.in(0).dtype(), dims);
}

}  // namespace

KernelRows quantized_ort_kernels() {
  static const KernelRow kRows[] = {
      {"DynamicQuantizeMatMul", 1, dynamic_product, "com.microsoft"},
      {"MatMulIntegerToFloat", 1, product_to_float, "com.microsoft"},
      {"QGemm", 1, qgemm, "com.microsoft"},
      {"QLinearAdd", 1, add, "com.microsoft"},
      {"QLinearAveragePool", 1, average, "com.microsoft"},
      {"QLinearConcat", 1, concat, "com.microsoft"},
      {"QLinearGlobalAveragePool", 1, global_average, "com.microsoft"},
      {"QLinearLeakyRelu", 1, leaky_relu, "com.microsoft"},
      {"QLinearMul", 1, multiply, "com.microsoft"},
      {"QLinearSigmoid", 1, sigmoid, "com.microsoft"},
  };
  return kRows;
}

}  // namespace onnxfold
