// Kernels that make an array larger: Expand, Tile, Pad.
#include <algorithm>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/parallel.h"
#include "exec/strided_copy.h"

namespace onnxfold {
namespace {

Status expand(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array data = ctx.in(0);
  OF_ASSIGN(const Dims shape, to_int64s(ctx.in(1)));
  if (std::any_of(shape.begin(), shape.end(), [](std::int64_t d) { return d < 0; }))
    return ctx.invalid("negative shape");
  const std::optional<Dims> dims = broadcast_dims(data.dims(), shape);
  if (!dims) {
    return ctx.invalid(fmt::format("{} does not broadcast to {}", dims_text(data.dims()), dims_text(shape)));
  }
  if (*dims == data.dims()) {
    ctx.set(0, data);
    return {};
  }
  Array& out = ctx.out(0, data.dtype(), *dims);
  const Dims own = row_major_strides(data.dims());
  Dims strides(dims->size(), 0);
  const std::size_t shift = dims->size() - own.size();
  for (std::size_t i = 0; i < own.size(); ++i) strides[shift + i] = data.dims()[i] == 1 ? 0 : own[i];
  strided_copy(data.storage(), *dims, data.raw(), strides, out.mutable_raw(), row_major_strides(*dims));
  return {};
}

Result<Dims> tile_repeats(const KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  if (ctx.opset() >= 6) return to_int64s(ctx.in(1));
  OF_TRY(ctx.need(3));
  OF_ASSIGN(const std::vector<std::int64_t> tiles, to_int64s(ctx.in(1)));
  OF_ASSIGN(const std::vector<std::int64_t> axes, to_int64s(ctx.in(2)));
  if (tiles.size() != 1 || axes.size() != 1) return ctx.invalid("tiles and axis must be single numbers");
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, axes[0], ctx.in(0).rank()));
  Dims repeats(ctx.in(0).dims().size(), 1);
  repeats[axis] = tiles[0];
  return repeats;
}

Status tile(KernelContext& ctx) {
  OF_ASSIGN(const Dims repeats, tile_repeats(ctx));
  const Array data = ctx.in(0);
  if (repeats.size() != data.dims().size()) return ctx.invalid("one repeat per axis is needed");
  const Dims own = row_major_strides(data.dims());
  Dims out_dims, dims, strides;
  for (std::size_t i = 0; i < repeats.size(); ++i) {
    std::int64_t total = 0;
    if (repeats[i] < 0 || __builtin_mul_overflow(repeats[i], data.dims()[i], &total)) return ctx.invalid("bad repeats");
    out_dims.push_back(total);
    dims.insert(dims.end(), {repeats[i], data.dims()[i]});
    strides.insert(strides.end(), {0, own[i]});
  }
  Array& out = ctx.out(0, data.dtype(), std::move(out_dims));
  strided_copy(data.storage(), dims, data.raw(), strides, out.mutable_raw(), row_major_strides(dims));
  return {};
}

enum class PadMode { kConstant, kReflect, kEdge, kWrap };

struct PadArguments {
  PadMode mode = PadMode::kConstant;
  Dims begins, ends;  // per axis
};

Result<PadArguments> pad_arguments(const KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  PadArguments args;
  const std::string mode = ctx.attr("mode", "constant");
  const std::string modes[] = {"constant", "reflect", "edge", "wrap"};
  const auto found = std::find(std::begin(modes), std::end(modes), mode);
  if (found == std::end(modes)) return ctx.unsupported(fmt::format("mode \"{}\"", mode));
  args.mode = static_cast<PadMode>(found - std::begin(modes));
  Dims pads, axes;
  if (ctx.opset() >= 11) {
    OF_TRY(ctx.need(2));
    OF_ASSIGN(pads, to_int64s(ctx.in(1)));
  } else {
    pads = ctx.node().attr_ints(ctx.opset() < 2 ? "paddings" : "pads").value_or(Dims{});
  }
  const auto rank = ctx.in(0).dims().size();
  if (ctx.opset() >= 18 && ctx.has(3)) {
    OF_ASSIGN(axes, to_int64s(ctx.in(3)));
  } else {
    for (std::size_t i = 0; i < rank; ++i) axes.push_back(static_cast<std::int64_t>(i));
  }
  if (pads.size() != 2 * axes.size()) return ctx.invalid("two pads per axis are needed");
  args.begins.assign(rank, 0);
  args.ends.assign(rank, 0);
  for (std::size_t i = 0; i < axes.size(); ++i) {
    OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, axes[i], ctx.in(0).rank()));
    args.begins[axis] = pads[i];
    args.ends[axis] = pads[axes.size() + i];
  }
  return args;
}

// Input index each output index of one axis copies, -1 for the constant.
Result<std::vector<std::int64_t>> pad_map(const KernelContext& ctx, PadMode mode, std::int64_t dim, std::int64_t begin,
                                          std::int64_t end) {
  std::int64_t total = 0;
  if (__builtin_add_overflow(dim, begin, &total) || __builtin_add_overflow(total, end, &total) || total < 0) {
    return ctx.invalid("pads leave a negative dimension");
  }
  if (total > (std::int64_t{1} << 40)) return ctx.invalid("pads are too large");
  // Negative pads crop first; what remains is what is repeated.
  const std::int64_t low = std::max<std::int64_t>(0, -begin), high = dim - std::max<std::int64_t>(0, -end);
  const std::int64_t length = high - low;
  if (mode != PadMode::kConstant && length <= 0 && total > 0)
    return ctx.invalid("cannot pad an empty axis in this mode");
  std::vector<std::int64_t> map(static_cast<std::size_t>(total));
  for (std::int64_t i = 0; i < total; ++i) {
    std::int64_t at = i - std::max<std::int64_t>(0, begin);  // in the cropped axis
    if (mode == PadMode::kConstant) {
      map[static_cast<std::size_t>(i)] = at < 0 || at >= length ? -1 : low + at;
      continue;
    }
    if (mode == PadMode::kEdge) at = std::clamp<std::int64_t>(at, 0, length - 1);
    if (mode == PadMode::kWrap) at = ((at % length) + length) % length;
    if (mode == PadMode::kReflect) {
      const std::int64_t period = std::max<std::int64_t>(1, 2 * (length - 1));
      at = ((at % period) + period) % period;
      if (at >= length) at = period - at;
    }
    map[static_cast<std::size_t>(i)] = low + at;
  }
  return map;
}

template <typename T>
void pad_rows(const Array& data, Array& out, const std::vector<std::vector<std::int64_t>>& maps, const T& constant) {
  const std::size_t last = maps.size() - 1;
  const std::vector<std::int64_t>& columns = maps[last];
  const auto width = static_cast<std::int64_t>(columns.size());
  const Dims strides = row_major_strides(data.dims());
  const T* in = data.data<T>();
  T* to = out.mutable_data<T>();
  const std::int64_t rows = out.size() / std::max<std::int64_t>(1, width);
  parallel_for(rows, std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, width)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t row = begin; row < end; ++row) {
                   std::int64_t rest = row, from = 0;
                   bool outside = false;
                   for (std::size_t k = last; k-- > 0;) {
                     const auto size = static_cast<std::int64_t>(maps[k].size());
                     const std::int64_t source = maps[k][static_cast<std::size_t>(rest % size)];
                     rest /= size;
                     outside = outside || source < 0;
                     from += source * strides[k];
                   }
                   T* target = to + row * width;
                   if (outside) {
                     std::fill_n(target, width, constant);
                     continue;
                   }
                   for (std::int64_t i = 0; i < width; ++i) {
                     const std::int64_t column = columns[static_cast<std::size_t>(i)];
                     target[i] = column < 0 ? constant : in[from + column];
                   }
                 }
               });
}

// The element to pad with, an array of one element of the input's type.
Result<Array> pad_value(const KernelContext& ctx) {
  const Array& data = ctx.in(0);
  if (ctx.opset() >= 11 && ctx.has(2)) {
    if (ctx.in(2).dtype() != data.dtype() || ctx.in(2).size() != 1)
      return ctx.invalid("constant_value must be one element");
    return ctx.in(2);
  }
  Array value = ctx.make(data.dtype(), {});
  const float given = ctx.opset() < 11 ? ctx.attr("value", 0.0F) : 0.0F;
  visit_real(value.storage(), [&]<typename T>(Tag<T>) { *value.mutable_data<T>() = static_cast<T>(given); });
  if (value.storage() == Storage::kComplex64) *value.mutable_data<std::complex<float>>() = 0;
  if (value.storage() == Storage::kComplex128) *value.mutable_data<std::complex<double>>() = 0;
  return value;
}

Status pad(KernelContext& ctx) {
  OF_ASSIGN(const PadArguments args, pad_arguments(ctx));
  OF_ASSIGN(const Array value, pad_value(ctx));
  const Array data = ctx.in(0);
  if (data.rank() == 0) {
    ctx.set(0, data);
    return {};
  }
  std::vector<std::vector<std::int64_t>> maps;
  Dims dims;
  for (std::size_t i = 0; i < data.dims().size(); ++i) {
    OF_ASSIGN(auto map, pad_map(ctx, args.mode, data.dims()[i], args.begins[i], args.ends[i]));
    dims.push_back(static_cast<std::int64_t>(map.size()));
    maps.push_back(std::move(map));
  }
  Array& out = ctx.out(0, data.dtype(), std::move(dims));
  if (out.size() == 0) return {};
  visit_movable(data.storage(), [&]<typename T>(Tag<T>) { pad_rows<T>(data, out, maps, *value.data<T>()); });
  return {};
}

}  // namespace

KernelRows expand_kernels() {
  static const KernelRow kRows[] = {{"Expand", 8, expand}, {"Tile", 1, tile}, {"Pad", 1, pad}};
  return kRows;
}

}  // namespace onnxfold
