// MatMul, Gemm and their com.microsoft fusions.
#include <fmt/format.h>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/activation.h"
#include "exec/kernels/kernels.h"
#include "exec/kernels/products.h"

namespace onnxfold {
namespace {

// The last two dimensions of one operand as op() sees them, and the ones in front.
struct Matrices {
  Dims batch;
  std::int64_t rows, columns, stride;
  bool transposed;
};

Matrices as_matrices(const Dims& dims, bool left, bool transpose) {
  if (dims.size() == 1) return left ? Matrices{{}, 1, dims[0], dims[0], false} : Matrices{{}, dims[0], 1, 1, false};
  Matrices m{Dims(dims.begin(), dims.end() - 2), dims[dims.size() - 2], dims.back(), dims.back(), transpose};
  if (transpose) std::swap(m.rows, m.columns);
  return m;
}

Dims product_dims(const Dims& batch, const Matrices& a, const Matrices& b, std::size_t rank_a, std::size_t rank_b) {
  Dims out = batch;
  if (rank_a > 1) out.push_back(a.rows);
  if (rank_b > 1) out.push_back(b.columns);
  return out;
}

// Offsets, in matrices, of every batch element of an operand that broadcasts to `batch`.
std::vector<std::int64_t> batch_offsets(const Dims& own, const Dims& batch) {
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(element_count(batch)), 0);
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    auto rest = static_cast<std::int64_t>(i);
    std::int64_t stride = 1;
    for (std::size_t back = 1; back <= own.size(); ++back) {
      const std::int64_t index = rest % batch[batch.size() - back];
      rest /= batch[batch.size() - back];
      const std::int64_t dim = own[own.size() - back];
      if (dim != 1) offsets[i] += index * stride;
      stride *= dim;
    }
  }
  return offsets;
}

template <typename T>
void multiply(const Array& a, const Matrices& left, const Array& b, const Matrices& right, const Dims& batch, T alpha,
              Array& out) {
  ProductShape shape{left.rows,    right.columns,   left.columns,    left.stride,
                     right.stride, left.transposed, right.transposed};
  std::vector<GemmItem<T>> items;
  if (element_count(right.batch) == 1 && !left.transposed) {
    shape.m = element_count(left.batch) * left.rows;  // one weight for the whole batch: a single tall product
    items.push_back({a.data<T>(), b.data<T>(), out.mutable_data<T>()});
  } else {
    const auto at_a = batch_offsets(left.batch, batch), at_b = batch_offsets(right.batch, batch);
    for (std::size_t i = 0; i < at_a.size(); ++i) {
      items.push_back({a.data<T>() + at_a[i] * left.rows * left.columns,
                       b.data<T>() + at_b[i] * right.rows * right.columns,
                       out.mutable_data<T>() + static_cast<std::int64_t>(i) * left.rows * right.columns});
    }
  }
  multiply_all<T>(items, shape, alpha);
}

Status matrix_product(KernelContext& ctx, bool trans_a, bool trans_b, float alpha) {
  OF_TRY(ctx.need(2));
  const Array &a = ctx.in(0), &b = ctx.in(1);
  if (a.rank() == 0 || b.rank() == 0) return ctx.invalid("an operand is a scalar");
  if (a.storage() != b.storage()) return ctx.invalid("operands differ in type");
  const Matrices left = as_matrices(a.dims(), true, trans_a), right = as_matrices(b.dims(), false, trans_b);
  const std::optional<Dims> batch = broadcast_dims(left.batch, right.batch);
  if (left.columns != right.rows || !batch) {
    return ctx.invalid(fmt::format("shapes {} and {} do not multiply", dims_text(a.dims()), dims_text(b.dims())));
  }
  Array& out = ctx.out(0, a.dtype(), product_dims(*batch, left, right, a.dims().size(), b.dims().size()));
  if (out.size() == 0) return {};
  const bool done = visit_numeric(
      a.storage(), [&]<typename T>(Tag<T>) { multiply<T>(a, left, b, right, *batch, static_cast<T>(alpha), out); });
  return done ? Status{} : ctx.unsupported("element type is not a number");
}

Status matmul(KernelContext& ctx) { return matrix_product(ctx, false, false, 1.0F); }

Status fused_matmul(KernelContext& ctx) {
  for (const char* name : {"transBatchA", "transBatchB"}) {
    if (ctx.attr(name, std::int64_t{0}) != 0)
      return ctx.unsupported(fmt::format("attribute {} is not supported", name));
  }
  return matrix_product(ctx, ctx.attr("transA", std::int64_t{0}) != 0, ctx.attr("transB", std::int64_t{0}) != 0,
                        ctx.attr("alpha", 1.0F));
}

// out = alpha * product + beta * C, C broadcast; products arrive unscaled for integers.
template <typename T>
void add_scaled(const Array& c, float alpha, float beta, Array& out) {
  const std::vector<T> product(out.data<T>(), out.data<T>() + out.size());
  const double scale = alpha, weight = beta;
  map_binary(product.data(), out.dims(), c.data<T>(), c.dims(), out.mutable_data<T>(), out.dims(), [=](T p, T x) {
    if (scale == 1 && weight == 1) return static_cast<T>(p + x);
    return static_cast<T>(scale * static_cast<double>(p) + weight * static_cast<double>(x));
  });
}

template <typename T>
void scale_all(T* values, std::int64_t count, float alpha) {
  if (alpha == 1.0F) return;
  for (std::int64_t i = 0; i < count; ++i)
    values[i] = static_cast<T>(static_cast<double>(values[i]) * static_cast<double>(alpha));
}

template <typename T>
void gemm_into(const KernelContext& ctx, const ProductShape& s, Array& out) {
  const float alpha = ctx.attr("alpha", 1.0F), beta = ctx.attr("beta", 1.0F);
  const T *a = ctx.in(0).data<T>(), *b = ctx.in(1).data<T>();
  const bool has_c = ctx.has(2) && beta != 0;
  if constexpr (std::is_floating_point_v<T>) {
    if (has_c) {
      const auto weight = static_cast<T>(beta);
      const Array& c = ctx.in(2);
      for_each_run<1>(out.dims(), {&c.dims()}, [&](std::int64_t at, std::int64_t n, auto& offsets, auto& steps) {
        for (std::int64_t i = 0; i < n; ++i) {
          out.mutable_data<T>()[at + i] = weight * c.data<T>()[offsets[0] + i * steps[0]];
        }
      });
    }
    gemm(s.m, s.n, s.k, static_cast<T>(alpha), a, s.lda, s.trans_a, b, s.ldb, s.trans_b, has_c ? T{1} : T{0},
         out.mutable_data<T>(), s.n);
  } else {
    const GemmItem<T> item{a, b, out.mutable_data<T>()};
    multiply_all<T>(std::span(&item, 1), s);
    if (has_c) {
      add_scaled<T>(ctx.in(2), alpha, beta, out);
    } else {
      scale_all(out.mutable_data<T>(), out.size(), alpha);
    }
  }
}

Result<Array*> general_product(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array &a = ctx.in(0), &b = ctx.in(1);
  if (a.rank() != 2 || b.rank() != 2) return ctx.invalid("A and B must be matrices");
  const bool trans_a = ctx.attr("transA", std::int64_t{0}) != 0, trans_b = ctx.attr("transB", std::int64_t{0}) != 0;
  const Matrices left = as_matrices(a.dims(), true, trans_a), right = as_matrices(b.dims(), false, trans_b);
  const Dims dims{left.rows, right.columns};
  if (left.columns != right.rows || a.storage() != b.storage()) {
    return ctx.invalid(fmt::format("A {} and B {} do not multiply", dims_text(a.dims()), dims_text(b.dims())));
  }
  if (ctx.has(2) && (ctx.in(2).storage() != a.storage() || broadcast_dims(ctx.in(2).dims(), dims) != dims)) {
    return ctx.invalid(fmt::format("C {} does not broadcast to {}", dims_text(ctx.in(2).dims()), dims_text(dims)));
  }
  Array& out = ctx.out(0, a.dtype(), dims);
  const bool done = visit_numeric(a.storage(), [&]<typename T>(Tag<T>) {
    gemm_into<T>(ctx, {dims[0], dims[1], left.columns, left.stride, right.stride, trans_a, trans_b}, out);
  });
  if (!done) return ctx.unsupported("element type is not a number");
  return &out;
}

Status gemm_kernel(KernelContext& ctx) {
  OF_TRY(general_product(ctx));
  return {};
}

Status fused_gemm(KernelContext& ctx) {
  const auto given = [&](const char* name) {
    return ctx.node().attribute(name) ? std::optional(ctx.attr(name, 0.0F)) : std::nullopt;
  };
  OF_ASSIGN(const Activation activation,
            find_activation(ctx, ctx.attr("activation", ""), given("activation_alpha"), given("activation_beta")));
  OF_ASSIGN(Array * out, general_product(ctx));
  const bool done = visit_float(
      out->storage(), [&]<typename T>(Tag<T>) { apply_activation(activation, out->mutable_data<T>(), out->size()); });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

constexpr KernelRow kRows[] = {
    {"MatMul", 1, matmul},
    {"Gemm", 1, gemm_kernel},
    {"FusedMatMul", 1, fused_matmul, "com.microsoft"},
    {"FusedGemm", 1, fused_gemm, "com.microsoft"},
};

}  // namespace

KernelRows matmul_kernels() { return kRows; }

}  // namespace onnxfold
