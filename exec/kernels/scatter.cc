// Scatter, ScatterElements, ScatterND, TensorScatter.
#include <algorithm>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/strided_copy.h"

namespace onnxfold {
namespace {

Array copy_of(const KernelContext& ctx, const Array& data) {
  Array out = ctx.make(data.dtype(), data.dims());
  copy_elements(data.storage(), data.raw(), 0, out.mutable_raw(), 0, data.size());
  return out;
}

enum class Reduction { kNone, kAdd, kMul, kMax, kMin };

Result<Reduction> reduction_of(const KernelContext& ctx) {
  const std::string text = ctx.attr("reduction", "none");
  if (text == "none") return Reduction::kNone;
  if (text == "add") return Reduction::kAdd;
  if (text == "mul") return Reduction::kMul;
  if (text == "max") return Reduction::kMax;
  if (text == "min") return Reduction::kMin;
  return ctx.unsupported(fmt::format("reduction \"{}\"", text));
}

template <typename T>
T reduced(Reduction reduction, T old, T update) {
  switch (reduction) {
    case Reduction::kAdd:
      return static_cast<T>(old + update);
    case Reduction::kMul:
      return static_cast<T>(old * update);
    case Reduction::kMax:
      return std::max(old, update);
    case Reduction::kMin:
      return std::min(old, update);
    default:
      return update;
  }
}

// target[places[i] + j] takes updates[i * block + j], in order, so that repeated places are well defined.
Status scatter_blocks(const KernelContext& ctx, const std::vector<std::int64_t>& places, std::int64_t block,
                      const Array& updates, Reduction reduction, Array& target) {
  if (reduction == Reduction::kNone) {
    for (std::size_t i = 0; i < places.size(); ++i) {
      copy_elements(target.storage(), updates.raw(), static_cast<std::int64_t>(i) * block, target.mutable_raw(),
                    places[i], block);
    }
    return {};
  }
  const bool done = visit_real(target.storage(), [&]<typename T>(Tag<T>) {
    const T* from = updates.data<T>();
    T* to = target.mutable_data<T>();
    for (const std::int64_t place : places) {
      for (std::int64_t j = 0; j < block; ++j) to[place + j] = reduced(reduction, to[place + j], *from++);
    }
  });
  if (!done) return ctx.unsupported("a reduction of this element type");
  return {};
}

Status scatter_elements(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  const Array data = ctx.in(0), indices = ctx.in(1), updates = ctx.in(2);
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{0}), data.rank()));
  OF_ASSIGN(const Reduction reduction, reduction_of(ctx));
  if (indices.rank() != data.rank() || indices.dims() != updates.dims() || updates.dtype() != data.dtype()) {
    return ctx.invalid("data, indices and updates do not fit together");
  }
  OF_ASSIGN(std::vector<std::int64_t> places, to_int64s(indices));
  const Dims strides = row_major_strides(data.dims());
  for (std::size_t k = 0; k < strides.size(); ++k) {
    if (k != axis && indices.dims()[k] > data.dims()[k]) return ctx.invalid("indices are larger than data");
  }
  const std::int64_t dim = data.dims()[axis];
  Dims index(data.dims().size(), 0);
  for (std::int64_t& place : places) {
    if (place < -dim || place >= dim) return ctx.invalid(fmt::format("index {} is out of range", place));
    place = (place < 0 ? place + dim : place) * strides[axis];
    for (std::size_t k = 0; k < index.size(); ++k) place += k == axis ? 0 : index[k] * strides[k];
    for (std::size_t k = index.size(); k-- > 0;) {
      if (++index[k] < indices.dims()[k]) break;
      index[k] = 0;
    }
  }
  Array out = copy_of(ctx, data);
  OF_TRY(scatter_blocks(ctx, places, 1, updates, reduction, out));
  ctx.set(0, std::move(out));
  return {};
}

Status scatter_nd(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  const Array data = ctx.in(0), indices = ctx.in(1), updates = ctx.in(2);
  OF_ASSIGN(const Reduction reduction, reduction_of(ctx));
  if (indices.rank() < 1 || data.rank() < 1 || updates.dtype() != data.dtype())
    return ctx.invalid("bad ranks or types");
  const std::int64_t width = indices.dims().back();
  if (width > data.rank()) return ctx.invalid("indices are wider than data");
  const auto depth = static_cast<std::size_t>(width);
  Dims expected(indices.dims().begin(), indices.dims().end() - 1);
  expected.insert(expected.end(), data.dims().begin() + width, data.dims().end());
  if (updates.dims() != expected) {
    return ctx.invalid(fmt::format("updates are {}, need {}", dims_text(updates.dims()), dims_text(expected)));
  }
  OF_ASSIGN(const std::vector<std::int64_t> flat, to_int64s(indices));
  const Dims strides = row_major_strides(data.dims());
  const std::int64_t block = depth == 0 ? data.size() : strides[depth - 1];
  const std::int64_t tuples = element_count(Dims(indices.dims().begin(), indices.dims().end() - 1));
  std::vector<std::int64_t> places;
  for (std::int64_t t = 0; t < tuples && updates.size() > 0; ++t) {
    std::int64_t place = 0;
    for (std::size_t k = 0; k < depth; ++k) {
      const std::int64_t dim = data.dims()[k], index = flat[static_cast<std::size_t>(t) * depth + k];
      if (index < -dim || index >= dim) return ctx.invalid(fmt::format("index {} is out of range", index));
      place += (index < 0 ? index + dim : index) * strides[k];
    }
    places.push_back(place);
  }
  Array out = copy_of(ctx, data);
  OF_TRY(scatter_blocks(ctx, places, block, updates, reduction, out));
  ctx.set(0, std::move(out));
  return {};
}

// past_cache[batch, ..., write_index[batch] + t, ...] = update[batch, ..., t, ...]
Status tensor_scatter(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array cache = ctx.in(0), update = ctx.in(1);
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{-2}), cache.rank()));
  Dims expected = cache.dims();
  if (axis == 0 || update.rank() != cache.rank()) return ctx.invalid("axis 0 is the batch axis");
  expected[axis] = update.dims()[axis];
  if (update.dims() != expected || update.dtype() != cache.dtype())
    return ctx.invalid("update does not fit past_cache");
  const bool circular = ctx.attr("mode", "linear") == "circular";
  const std::int64_t batches = cache.dims()[0];
  std::vector<std::int64_t> starts(static_cast<std::size_t>(batches), 0);
  if (ctx.has(2)) {
    OF_ASSIGN(starts, to_int64s(ctx.in(2)));
  }
  if (static_cast<std::int64_t>(starts.size()) != batches) return ctx.invalid("one write index per batch is needed");
  Array out = copy_of(ctx, cache);
  const AxisView to = axis_view(cache.dims(), axis), from = axis_view(update.dims(), axis);
  const std::int64_t per_batch = batches == 0 ? 0 : to.outer / batches;
  for (std::int64_t outer = 0; outer < from.outer && update.size() > 0; ++outer) {
    for (std::int64_t t = 0; t < from.dim; ++t) {
      std::int64_t at = 0;
      const std::int64_t start = starts[static_cast<std::size_t>(outer / per_batch)];
      if (start < 0 || __builtin_add_overflow(start, t, &at)) return ctx.invalid("a write index is out of range");
      if (circular) at %= to.dim;
      if (at >= to.dim) return ctx.invalid("a write index is out of range");
      copy_elements(cache.storage(), update.raw(), (outer * from.dim + t) * from.inner, out.mutable_raw(),
                    (outer * to.dim + at) * to.inner, to.inner);
    }
  }
  ctx.set(0, std::move(out));
  return {};
}

}  // namespace

KernelRows scatter_kernels() {
  static const KernelRow kRows[] = {
      {"Scatter", 9, scatter_elements},
      {"ScatterElements", 11, scatter_elements},
      {"ScatterND", 11, scatter_nd},
      {"TensorScatter", 24, tensor_scatter},
  };
  return kRows;
}

}  // namespace onnxfold
