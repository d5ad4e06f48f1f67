// MatMulInteger, QLinearMatMul, ConvInteger, QLinearConv: products of quantized numbers.
//
// Computed in double, where sums of 8-bit products are exact up to 2^53.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/convolve.h"
#include "exec/kernels/kernels.h"
#include "exec/kernels/products.h"

namespace onnxfold {
namespace {

using Doubles = std::vector<double>;

// x - zero point, the zero point being one number or one per index of `axis`.
Result<Doubles> centred(const KernelContext& ctx, const Array& x, std::size_t zero_input, int axis) {
  OF_ASSIGN(Doubles values, to_doubles(x));
  if (!ctx.has(zero_input)) return values;
  OF_ASSIGN(const Doubles zeros, to_doubles(ctx.in(zero_input)));
  if (zeros.size() == 1) {
    for (double& value : values) value -= zeros[0];
    return values;
  }
  if (axis < 0) axis += x.rank();
  // A zero point per row or column may be stored with the batch axes in front of it.
  std::int64_t inner = 1;
  for (int i = axis + 1; i < x.rank(); ++i) inner *= x.dim(i);
  const auto dim = x.rank() > 0 ? x.dim(axis) : 1;
  const auto count = static_cast<std::int64_t>(zeros.size());
  const bool per_axis = count == dim;
  const bool per_batch =
      !per_axis && count == x.size() / std::max<std::int64_t>(1, x.dim(axis == x.rank() - 1 ? -2 : -1));
  if (!per_axis && !per_batch)
    return ctx.invalid(fmt::format("{} zero points do not fit {}", count, dims_text(x.dims())));
  for (std::int64_t i = 0; i < x.size(); ++i) {
    const std::int64_t along = i / inner % dim;
    const std::int64_t batch = i / (inner * dim) * dim;
    std::int64_t index = per_axis ? along : batch + along;
    if (per_batch && axis == x.rank() - 1) index = i / (x.dim(-1) * x.dim(-2)) * dim + along;
    values[static_cast<std::size_t>(i)] -= zeros[static_cast<std::size_t>(index)];
  }
  return values;
}

struct Product {
  Dims dims;
  Doubles values;
};

// numpy matmul of doubles, batch axes broadcast.
Result<Product> matmul(const KernelContext& ctx, Dims a_dims, const Doubles& a, Dims b_dims, const Doubles& b) {
  const bool row = a_dims.size() == 1;
  const bool column = b_dims.size() == 1;
  if (a_dims.empty() || b_dims.empty()) return ctx.invalid("a scalar is no matrix");
  if (row) a_dims.insert(a_dims.begin(), 1);
  if (column) b_dims.push_back(1);
  const std::int64_t m = a_dims[a_dims.size() - 2];
  const std::int64_t k = a_dims.back();
  const std::int64_t n = b_dims.back();
  if (b_dims[b_dims.size() - 2] != k)
    return ctx.invalid(fmt::format("shapes {} and {} do not multiply", dims_text(a_dims), dims_text(b_dims)));
  const Dims a_batch(a_dims.begin(), a_dims.end() - 2);
  const Dims b_batch(b_dims.begin(), b_dims.end() - 2);
  const auto batch = broadcast_dims(a_batch, b_batch);
  if (!batch) return ctx.invalid("the batches do not broadcast");
  Product product;
  product.values.resize(static_cast<std::size_t>(element_count(*batch) * m * n));
  std::vector<GemmItem<double>> items(static_cast<std::size_t>(element_count(*batch)));
  for_each_run<2>(*batch, {&a_batch, &b_batch}, [&](std::int64_t at, std::int64_t count, auto& offsets, auto& steps) {
    for (std::int64_t i = 0; i < count; ++i) {
      items[static_cast<std::size_t>(at + i)] = {a.data() + (offsets[0] + i * steps[0]) * m * k,
                                                 b.data() + (offsets[1] + i * steps[1]) * k * n,
                                                 product.values.data() + (at + i) * m * n};
    }
  });
  multiply_all<double>(items, {m, n, k, k, n});
  product.dims = *batch;
  if (!row) product.dims.push_back(m);
  if (!column) product.dims.push_back(n);
  return product;
}

Status matmul_integer(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array a = ctx.in(0);
  const Array b = ctx.in(1);
  OF_ASSIGN(const Doubles left, centred(ctx, a, 2, -2));
  OF_ASSIGN(const Doubles right, centred(ctx, b, 3, -1));
  OF_ASSIGN(const Product product, matmul(ctx, a.dims(), left, b.dims(), right));
  Array& out = ctx.out(0, DType::kInt32, product.dims);
  std::copy(product.values.begin(), product.values.end(), out.mutable_data<std::int32_t>());
  return {};
}

// round(value * factor) + zero, clamped to the output's type.
Status requantize(KernelContext& ctx, const Doubles& values, const Doubles& factors, std::int64_t inner,
                  const Array& scale, const Array& zero_point, const Dims& dims) {
  OF_ASSIGN(const Doubles y_scale, to_doubles(scale));
  OF_ASSIGN(const Doubles zero, to_doubles(zero_point));
  if (y_scale.size() != 1 || zero.size() != 1) return ctx.unsupported("an output scale per row");
  Array& out = ctx.out(0, zero_point.dtype(), dims);
  const bool done = visit_integer(out.storage(), [&]<typename Q>(Tag<Q>) {
    Q* to = out.mutable_data<Q>();
    constexpr double kLow = std::numeric_limits<Q>::min();
    constexpr double kHigh = static_cast<double>(std::numeric_limits<Q>::max());
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double factor = factors[static_cast<std::size_t>(static_cast<std::int64_t>(i) / inner) % factors.size()];
      to[i] = static_cast<Q>(std::clamp(std::nearbyint(values[i] * factor / y_scale[0]) + zero[0], kLow, kHigh));
    }
  });
  if (!done) return ctx.unsupported("this output type");
  return {};
}

Result<Doubles> factors_of(const Array& a_scale, const Array& b_scale) {
  OF_ASSIGN(const Doubles a, to_doubles(a_scale));
  OF_ASSIGN(Doubles b, to_doubles(b_scale));
  if (a.size() != 1) return fail(Code::kUnsupported, "an input scale per row");
  for (double& factor : b) factor *= a[0];
  return b;
}

Status qlinear_matmul(KernelContext& ctx) {
  OF_TRY(ctx.need(8));
  const Array a = ctx.in(0);
  const Array b = ctx.in(3);
  OF_ASSIGN(const Doubles left, centred(ctx, a, 2, -2));
  OF_ASSIGN(const Doubles right, centred(ctx, b, 5, -1));
  OF_ASSIGN(const Product product, matmul(ctx, a.dims(), left, b.dims(), right));
  OF_ASSIGN(const Doubles factors, factors_of(ctx.in(1), ctx.in(4)));
  return requantize(ctx, product.values, factors, 1, ctx.in(6), ctx.in(7), product.dims);
}

Dims output_dims(const Convolution& conv, int rank) {
  Dims dims = {conv.batch, conv.filters};
  for (int i = 5 - rank; i < 3; ++i) dims.push_back(conv.window.out[static_cast<std::size_t>(i)]);
  return dims;
}

Status conv_integer(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array x = ctx.in(0);
  const Array w = ctx.in(1);
  OF_ASSIGN(const Convolution conv, read_convolution(ctx, x.dims(), w.dims()));
  OF_ASSIGN(const Doubles left, centred(ctx, x, 2, 1));
  OF_ASSIGN(const Doubles right, centred(ctx, w, 3, 0));
  const Dims dims = output_dims(conv, x.rank());
  Doubles sums(static_cast<std::size_t>(element_count(dims)));
  convolve(conv, left.data(), right.data(), nullptr, sums.data());
  Array& out = ctx.out(0, DType::kInt32, dims);
  std::copy(sums.begin(), sums.end(), out.mutable_data<std::int32_t>());
  return {};
}

Status qlinear_conv(KernelContext& ctx) {
  OF_TRY(ctx.need(8));
  const Array x = ctx.in(0);
  const Array w = ctx.in(3);
  OF_ASSIGN(const Convolution conv, read_convolution(ctx, x.dims(), w.dims()));
  OF_ASSIGN(const Doubles left, centred(ctx, x, 2, 1));
  OF_ASSIGN(const Doubles right, centred(ctx, w, 5, 0));
  Doubles bias;
  if (ctx.has(8)) {
    OF_ASSIGN(bias, to_doubles(ctx.in(8)));
  }
  const Dims dims = output_dims(conv, x.rank());
  Doubles sums(static_cast<std::size_t>(element_count(dims)));
  convolve(conv, left.data(), right.data(), bias.empty() ? nullptr : bias.data(), sums.data());
  OF_ASSIGN(const Doubles factors, factors_of(ctx.in(1), ctx.in(4)));
  const std::int64_t inner = element_count(dims) / std::max<std::int64_t>(1, dims[0] * dims[1]);
  return requantize(ctx, sums, factors, inner, ctx.in(6), ctx.in(7), dims);
}

}  // namespace

KernelRows integer_products_kernels() {
  static const KernelRow kRows[] = {{"ConvInteger", 10, conv_integer},
                                    {"MatMulInteger", 10, matmul_integer},
                                    {"QLinearConv", 10, qlinear_conv},
                                    {"QLinearMatMul", 10, qlinear_matmul}};
  return kRows;
}

}  // namespace onnxfold
