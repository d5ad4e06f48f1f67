// LayerNormalization, RMSNormalization and ONNX Runtime's fusions of them with a residual sum or embeddings.
#include <fmt/format.h>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/kernels/normalize_rows.h"

namespace onnxfold {
namespace {

// A scale or bias at the size of a row, or of the whole input when it varies from row to row.
template <typename T>
struct Parameter {
  std::vector<T> expanded;
  const T* data = nullptr;
  std::int64_t step = 0;
};

template <typename T>
Result<Parameter<T>> row_parameter(const KernelContext& ctx, std::size_t input, const Dims& dims, std::size_t axis) {
  Parameter<T> parameter;
  if (!ctx.has(input)) return parameter;
  const Array& array = ctx.in(input);
  if (array.storage() != StorageOf<T>::value)
    return ctx.invalid(fmt::format("input {} differs in type from the data", input));
  const Dims row(dims.begin() + static_cast<std::ptrdiff_t>(axis), dims.end());
  if (array.dims() == row) {
    parameter.data = array.data<T>();
    return parameter;
  }
  const bool per_row = broadcast_dims(array.dims(), row) != row;
  const Dims& target = per_row ? dims : row;
  if (broadcast_dims(array.dims(), target) != target) {
    return ctx.invalid(fmt::format("input {} of shape {} does not broadcast to {}", input, dims_text(array.dims()),
                                   dims_text(target)));
  }
  parameter.expanded.resize(static_cast<std::size_t>(element_count(target)));
  for_each_run<1>(target, {&array.dims()}, [&](std::int64_t at, std::int64_t n, auto& offsets, auto& steps) {
    for (std::int64_t i = 0; i < n; ++i) {
      parameter.expanded[static_cast<std::size_t>(at + i)] = array.data<T>()[offsets[0] + i * steps[0]];
    }
  });
  parameter.data = parameter.expanded.data();
  parameter.step = per_row ? element_count(row) : 0;
  return parameter;
}

struct Layout {
  std::size_t scale, bias;    // inputs
  std::size_t mean, inverse;  // outputs
  bool centre;
};

constexpr std::size_t kNone = 99;

// The statistics' element type: float32 unless stash_type asks for another; kernels compute them in double anyway.
Result<DType> stash_dtype(const KernelContext& ctx) {
  const auto type = static_cast<DType>(ctx.attr("stash_type", std::int64_t{1}));
  if (!is_float(type)) return ctx.invalid("stash_type is not a float type");
  return ctx.in(0).dtype() == DType::kFloat64 ? DType::kFloat64 : type;
}

template <typename T>
Status run_norm(KernelContext& ctx, const Array& x, std::size_t axis, const Layout& layout, double epsilon, Array& y) {
  OF_ASSIGN(const Parameter<T> scale, row_parameter<T>(ctx, layout.scale, x.dims(), axis));
  OF_ASSIGN(const Parameter<T> bias, row_parameter<T>(ctx, layout.bias, x.dims(), axis));
  OF_ASSIGN(const DType stash, stash_dtype(ctx));
  Dims statistics = x.dims();
  std::fill(statistics.begin() + static_cast<std::ptrdiff_t>(axis), statistics.end(), 1);
  const std::int64_t rows = element_count(statistics);
  const auto statistic = [&](std::size_t i) -> T* {
    return i != kNone && ctx.wants(i) ? ctx.out(i, stash, statistics).mutable_data<T>() : nullptr;
  };
  const RowNorm<T> norm{rows,
                        rows == 0 ? 0 : x.size() / rows,
                        scale.data,
                        scale.step,
                        bias.data,
                        bias.step,
                        epsilon,
                        layout.centre,
                        layout.centre ? statistic(layout.mean) : nullptr,
                        statistic(layout.inverse)};
  normalize_rows(norm, x.data<T>(), y.mutable_data<T>());
  return {};
}

Status norm_of(KernelContext& ctx, const Array& x, std::size_t axis, const Layout& layout, double epsilon, Array& y) {
  Status status;
  const bool done =
      visit_float(x.storage(), [&]<typename T>(Tag<T>) { status = run_norm<T>(ctx, x, axis, layout, epsilon, y); });
  return done ? status : ctx.unsupported("element type is not a float");
}

Status plain_norm(KernelContext& ctx, const Layout& layout) {
  OF_TRY(ctx.need(1));
  const Array& x = ctx.in(0);
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{-1}), x.rank()));
  return norm_of(ctx, x, axis, layout, ctx.attr("epsilon", 1e-5F), ctx.out(0, x.dtype(), x.dims()));
}

Status layer_norm(KernelContext& ctx) { return plain_norm(ctx, {1, 2, 1, 2, true}); }
Status rms_norm(KernelContext& ctx) { return plain_norm(ctx, {1, kNone, kNone, kNone, false}); }
Status simplified_norm(KernelContext& ctx) { return plain_norm(ctx, {1, kNone, kNone, 1, false}); }

// input + skip (+ bias), skip and bias broadcasting to the input.
Result<Array> residual_sum(const KernelContext& ctx, std::size_t bias_input) {
  const Array& x = ctx.in(0);
  Array sum = ctx.make(x.dtype(), x.dims());
  for (const std::size_t i : {std::size_t{1}, bias_input}) {
    if (!ctx.has(i)) continue;
    const Array& addend = ctx.in(i);
    if (addend.storage() != x.storage() || broadcast_dims(addend.dims(), x.dims()) != x.dims()) {
      return ctx.invalid(
          fmt::format("input {} of shape {} does not fit {}", i, dims_text(addend.dims()), dims_text(x.dims())));
    }
    visit_float(x.storage(), [&]<typename T>(Tag<T>) {
      map_binary(i == 1 ? x.data<T>() : sum.data<T>(), x.dims(), addend.data<T>(), addend.dims(), sum.mutable_data<T>(),
                 x.dims(), [](T a, T b) { return a + b; });
    });
  }
  return sum;
}

Status skip_norm(KernelContext& ctx, const Layout& layout, std::size_t bias_input) {
  OF_TRY(ctx.need(3));
  if (ctx.in(0).rank() < 2) return ctx.invalid("the input needs rank 2 or more");
  OF_ASSIGN(Array sum, residual_sum(ctx, bias_input));
  const std::size_t axis = sum.dims().size() - 1;
  OF_TRY(norm_of(ctx, sum, axis, layout, ctx.attr("epsilon", 1e-12F), ctx.out(0, sum.dtype(), sum.dims())));
  if (ctx.wants(3)) ctx.set(3, std::move(sum));
  return {};
}

Status skip_layer_norm(KernelContext& ctx) { return skip_norm(ctx, {2, 3, 1, 2, true}, 4); }
Status skip_simplified_norm(KernelContext& ctx) { return skip_norm(ctx, {2, kNone, kNone, 2, false}, 3); }

struct Lookup {
  const Array* table = nullptr;
  std::vector<std::int64_t> ids;  // one per token
};

Status check_ids(const KernelContext& ctx, const Lookup& lookup, const char* what) {
  for (const std::int64_t id : lookup.ids) {
    if (id < 0 || id >= lookup.table->dim(0)) return ctx.invalid(fmt::format("{} id {} is out of range", what, id));
  }
  return {};
}

// Rows of the tables to add up: word, position, segment.
Result<std::vector<Lookup>> embedding_rows(const KernelContext& ctx) {
  const Array& ids = ctx.in(0);
  const std::int64_t batch = ids.dim(0), length = ids.dim(1);
  std::vector<Lookup> lookups;
  OF_ASSIGN(std::vector<std::int64_t> words, to_int64s(ids));
  lookups.push_back({&ctx.in(2), std::move(words)});
  std::vector<std::int64_t> positions;
  if (ctx.has(8)) {
    OF_ASSIGN(positions, to_int64s(ctx.in(8)));
  } else {
    for (std::int64_t i = 0; i < length; ++i) positions.push_back(i);
  }
  const std::size_t given = positions.size();
  if (given != static_cast<std::size_t>(length) && given != static_cast<std::size_t>(batch * length))
    return ctx.invalid("position_ids do not fit input_ids");
  for (std::size_t i = given; i < static_cast<std::size_t>(batch * length); ++i)
    positions.push_back(positions[i - given]);
  lookups.push_back({&ctx.in(3), std::move(positions)});
  if (ctx.has(1)) {
    if (!ctx.has(4) || ctx.in(1).dims() != ids.dims())
      return ctx.invalid("segment ids need a segment table and the shape of input_ids");
    OF_ASSIGN(std::vector<std::int64_t> segments, to_int64s(ctx.in(1)));
    lookups.push_back({&ctx.in(4), std::move(segments)});
  }
  for (const Lookup& lookup : lookups) {
    if (lookup.table->rank() != 2 || lookup.table->dim(1) != ctx.in(2).dim(-1) ||
        lookup.table->storage() != ctx.in(2).storage()) {
      return ctx.invalid("embedding tables differ in width or type");
    }
    OF_TRY(check_ids(ctx, lookup, "an embedding"));
  }
  return lookups;
}

Status embed_layer_norm(KernelContext& ctx) {
  for (const std::size_t i : {0, 2, 3, 5, 6}) {
    if (!ctx.has(i)) return ctx.invalid(fmt::format("input {} is missing", i));
  }
  if (ctx.in(0).rank() != 2 || ctx.in(2).rank() != 2)
    return ctx.invalid("input_ids and embedding tables must be matrices");
  OF_ASSIGN(const std::vector<Lookup> lookups, embedding_rows(ctx));
  const std::int64_t batch = ctx.in(0).dim(0), length = ctx.in(0).dim(1), width = ctx.in(2).dim(1);
  Array sum = ctx.make(ctx.in(2).dtype(), {batch, length, width});
  visit_float(sum.storage(), [&]<typename T>(Tag<T>) {
    for (std::int64_t t = 0; t < batch * length; ++t) {
      T* to = sum.mutable_data<T>() + t * width;
      std::fill_n(to, width, T{0});
      for (const Lookup& lookup : lookups) {
        const T* from = lookup.table->data<T>() + lookup.ids[static_cast<std::size_t>(t)] * width;
        for (std::int64_t i = 0; i < width; ++i) to[i] += from[i];
      }
    }
  });
  OF_TRY(norm_of(ctx, sum, 2, {5, 6, kNone, kNone, true}, ctx.attr("epsilon", 1e-12F),
                 ctx.out(0, sum.dtype(), sum.dims())));
  if (ctx.wants(1)) {
    Array& counts = ctx.out(1, DType::kInt32, {batch});
    std::vector<std::int64_t> mask(static_cast<std::size_t>(batch * length), 0);
    if (ctx.has(7)) {
      OF_ASSIGN(mask, to_int64s(ctx.in(7)));
      if (mask.size() != static_cast<std::size_t>(batch * length)) return ctx.invalid("mask does not fit input_ids");
    }
    for (std::int64_t b = 0; b < batch; ++b) {
      const auto begin = mask.begin() + b * length;
      counts.mutable_data<std::int32_t>()[b] = static_cast<std::int32_t>(std::count(begin, begin + length, 1));
    }
  }
  if (ctx.wants(2)) ctx.set(2, std::move(sum));
  return {};
}

constexpr KernelRow kRows[] = {
    {"LayerNormalization", 1, layer_norm},
    {"RMSNormalization", 23, rms_norm},
    {"SimplifiedLayerNormalization", 1, simplified_norm},
    {"SimplifiedLayerNormalization", 1, simplified_norm, "com.microsoft"},
    {"SkipLayerNormalization", 1, skip_layer_norm, "com.microsoft"},
    {"SkipSimplifiedLayerNormalization", 1, skip_simplified_norm, "com.microsoft"},
    {"EmbedLayerNormalization", 1, embed_layer_norm, "com.microsoft"},
};

}  // namespace

KernelRows layer_norm_kernels() { return kRows; }

}  // namespace onnxfold
