// RotaryEmbedding of the default domain and of com.microsoft.
#include "exec/kernels/rotary.h"

#include <fmt/format.h>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

struct Rotation {
  std::int64_t batch, heads, length, width, half;
  bool heads_first;                      // X is [batch, heads, length, width]
  std::vector<std::int64_t> cache_rows;  // per (batch, position)
};

Result<Rotation> read_rotation(const KernelContext& ctx, const Array& cache) {
  const Array& x = ctx.in(0);
  const std::int64_t given = ctx.attr("rotary_embedding_dim", std::int64_t{0}), angles = cache.dim(-1);
  Rotation r{};
  if (x.rank() == 4) {
    r = {x.dim(0), x.dim(1), x.dim(2), x.dim(3), 0, true, {}};
  } else if (x.rank() == 3) {
    std::int64_t heads = ctx.attr("num_heads", std::int64_t{0});
    if (heads == 0 && angles > 0) heads = x.dim(2) / (2 * angles);
    if (heads < 1 || x.dim(2) % heads != 0)
      return ctx.invalid(fmt::format("{} heads do not divide the width {}", heads, x.dim(2)));
    r = {x.dim(0), heads, x.dim(1), x.dim(2) / heads, 0, false, {}};
  } else {
    return ctx.invalid("X must have rank 3 or 4, not " + dims_text(x.dims()));
  }
  r.half = given > 0 ? given / 2 : r.width / 2;
  if (given < 0 || 2 * r.half > r.width || angles != r.half) {
    return ctx.invalid(fmt::format("caches hold {} angles, a head of {} needs {}", angles, r.width, r.half));
  }
  return r;
}

// Row of the caches for every position. `positions` is null when the caches are per (batch, position) already.
Status place_rows(const KernelContext& ctx, Rotation& r, const Array* positions, const Array& cache) {
  std::vector<std::int64_t> given;
  if (positions) {
    OF_ASSIGN(given, to_int64s(*positions));
  }
  const std::int64_t rows = cache.dim(-1) == 0 ? 0 : cache.size() / cache.dim(-1), count = r.batch * r.length;
  if (positions && given.size() != 1 && static_cast<std::int64_t>(given.size()) != count)
    return ctx.invalid("position_ids do not fit X");
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t row = i;
    if (given.size() == 1 && count != 1)
      row = given[0] + i % r.length;
    else if (positions)
      row = given[static_cast<std::size_t>(i)];
    if (row < 0 || row >= rows) return ctx.invalid(fmt::format("position {} lies outside the caches", row));
    r.cache_rows.push_back(row);
  }
  return {};
}

Status rotate(KernelContext& ctx, const Array* positions, const Array& cosines, const Array& sines) {
  const Array& x = ctx.in(0);
  if (cosines.dims() != sines.dims() || cosines.rank() < 2 || cosines.storage() != x.storage() ||
      sines.storage() != x.storage()) {
    return ctx.invalid("the caches differ in shape or type");
  }
  OF_ASSIGN(Rotation r, read_rotation(ctx, cosines));
  OF_TRY(place_rows(ctx, r, positions, cosines));
  const bool interleaved = ctx.attr("interleaved", std::int64_t{0}) != 0;
  Array& y = ctx.out(0, x.dtype(), x.dims());
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    T* to = y.mutable_data<T>();
    std::copy_n(x.data<T>(), x.size(), to);
    for (std::int64_t i = 0; i < r.batch * r.heads * r.length; ++i) {
      const std::int64_t position = r.heads_first ? i / (r.heads * r.length) * r.length + i % r.length : i / r.heads;
      const std::int64_t row = r.cache_rows[static_cast<std::size_t>(position)] * r.half;
      rotate_head(to + i * r.width, cosines.data<T>() + row, sines.data<T>() + row, r.half, interleaved,
                  to + i * r.width);
    }
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

Status rotary_embedding(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  return rotate(ctx, ctx.has(3) ? &ctx.in(3) : nullptr, ctx.in(1), ctx.in(2));
}

Status rotary_embedding_ms(KernelContext& ctx) {
  OF_TRY(ctx.need(4));
  if (ctx.attr("is_packed_batching", std::int64_t{0}) != 0)
    return ctx.unsupported("attribute is_packed_batching is not supported");
  return rotate(ctx, &ctx.in(1), ctx.in(2), ctx.in(3));
}

constexpr KernelRow kRows[] = {
    {"RotaryEmbedding", 23, rotary_embedding},
    {"RotaryEmbedding", 1, rotary_embedding_ms, "com.microsoft"},
};

}  // namespace

KernelRows rotary_kernels() { return kRows; }

}  // namespace onnxfold
