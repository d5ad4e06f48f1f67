// Kernels that join or cut along axes: Concat, Split, Slice, Compress.
#include "exec/kernels/concat.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "exec/broadcast.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/strided_copy.h"

namespace onnxfold {

Result<Array> concatenate(const KernelContext& ctx, const std::vector<Array>& arrays, std::int64_t given_axis) {
  if (arrays.empty()) return ctx.invalid("nothing to concatenate");
  const Array& first = arrays.front();
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, given_axis, first.rank()));
  Dims dims = first.dims();
  dims[axis] = 0;
  for (const Array& array : arrays) {
    Dims others = array.dims();
    if (array.dtype() != first.dtype() || others.size() != dims.size())
      return ctx.invalid("inputs differ in type or rank");
    const std::int64_t length = std::exchange(others[axis], dims[axis]);
    if (others != dims) {
      return ctx.invalid(
          fmt::format("inputs {} and {} do not fit together", dims_text(first.dims()), dims_text(array.dims())));
    }
    if (__builtin_add_overflow(dims[axis], length, &dims[axis])) return ctx.invalid("output is too large");
  }
  Array out = ctx.make(first.dtype(), dims);
  const Dims out_strides = row_major_strides(dims);
  std::int64_t at = 0;
  for (const Array& array : arrays) {
    strided_copy(array.storage(), array.dims(), array.raw(), row_major_strides(array.dims()),
                 element_at(array.storage(), out.mutable_raw(), at * out_strides[axis]), out_strides);
    at += array.dims()[axis];
  }
  return out;
}

Array slice_axis(const KernelContext& ctx, const Array& data, std::size_t axis, std::int64_t start,
                 std::int64_t length) {
  Dims dims = data.dims();
  dims[axis] = length;
  Array out = ctx.make(data.dtype(), dims);
  const Dims strides = row_major_strides(data.dims());
  strided_copy(data.storage(), dims, element_at(data.storage(), data.raw(), start * strides[axis]), strides,
               out.mutable_raw(), row_major_strides(dims));
  return out;
}

namespace {

Status concat(KernelContext& ctx) {
  OF_TRY(ctx.need(ctx.input_count()));
  std::vector<Array> arrays;
  for (std::size_t i = 0; i < ctx.input_count(); ++i) arrays.push_back(ctx.in(i));
  OF_ASSIGN(Array out, concatenate(ctx, arrays, ctx.attr("axis", std::int64_t{1})));
  ctx.set(0, std::move(out));
  return {};
}

Result<Dims> split_lengths(const KernelContext& ctx, std::int64_t dim) {
  const bool input = (ctx.opset() >= 13 || ctx.opset() < 2) && ctx.has(1);
  if (input) return to_int64s(ctx.in(1));
  if (ctx.opset() < 13) {
    if (const auto given = ctx.node().attr_ints("split")) return *given;
  }
  const auto outputs = static_cast<std::int64_t>(ctx.output_count());
  const std::int64_t parts = ctx.opset() >= 18 ? ctx.attr("num_outputs", outputs) : outputs;
  if (parts < 1 || parts != outputs) return ctx.invalid("num_outputs is not the number of outputs");
  const std::int64_t each = (dim + parts - 1) / parts;
  Dims lengths;
  for (std::int64_t i = 0, left = dim; i < parts; ++i, left -= lengths.back()) lengths.push_back(std::min(each, left));
  return lengths;
}

Status split(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array data = ctx.in(0);
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{0}), data.rank()));
  OF_ASSIGN(const Dims lengths, split_lengths(ctx, data.dims()[axis]));
  if (lengths.size() < ctx.output_count()) return ctx.invalid("fewer lengths than outputs");
  std::int64_t at = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 0 || lengths[i] > data.dims()[axis] - at)
      return ctx.invalid("split lengths do not add up to the axis");
    if (ctx.wants(i)) ctx.set(i, slice_axis(ctx, data, axis, at, lengths[i]));
    at += lengths[i];
  }
  if (at != data.dims()[axis]) return ctx.invalid("split lengths do not add up to the axis");
  return {};
}

struct SliceArguments {
  Dims starts, ends, axes, steps;
};

Result<SliceArguments> slice_arguments(const KernelContext& ctx) {
  SliceArguments args;
  if (ctx.opset() < 10) {
    args.starts = ctx.node().attr_ints("starts").value_or(Dims{});
    args.ends = ctx.node().attr_ints("ends").value_or(Dims{});
    args.axes = ctx.node().attr_ints("axes").value_or(Dims{});
  } else {
    OF_TRY(ctx.need(3));
    OF_ASSIGN(args.starts, to_int64s(ctx.in(1)));
    OF_ASSIGN(args.ends, to_int64s(ctx.in(2)));
    if (ctx.has(3)) {
      OF_ASSIGN(args.axes, to_int64s(ctx.in(3)));
    }
    if (ctx.has(4)) {
      OF_ASSIGN(args.steps, to_int64s(ctx.in(4)));
    }
  }
  const std::size_t count = args.starts.size();
  if (args.axes.empty()) {
    args.axes.resize(count);
    std::iota(args.axes.begin(), args.axes.end(), std::int64_t{0});
  }
  if (args.steps.empty()) args.steps.assign(count, 1);
  if (args.ends.size() != count || args.axes.size() != count || args.steps.size() != count) {
    return ctx.invalid("starts, ends, axes and steps differ in length");
  }
  return args;
}

Status slice(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array data = ctx.in(0);
  OF_ASSIGN(const SliceArguments args, slice_arguments(ctx));
  Dims dims = data.dims(), strides = row_major_strides(dims);
  const Dims full = strides;
  std::int64_t origin = 0;
  for (std::size_t i = 0; i < args.starts.size(); ++i) {
    OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, args.axes[i], data.rank()));
    const std::int64_t dim = data.dims()[axis];
    // A step beyond the axis behaves like the axis length, and cannot overflow.
    const std::int64_t step =
        std::clamp<std::int64_t>(args.steps[i], -std::max<std::int64_t>(dim, 1), std::max<std::int64_t>(dim, 1));
    if (step == 0) return ctx.invalid("a step is 0");
    const auto wrapped = [&](std::int64_t at) { return at < 0 ? at + dim : at; };
    const std::int64_t low = step > 0 ? 0 : -1, high = step > 0 ? dim : dim - 1;
    const std::int64_t start =
        std::clamp(wrapped(args.starts[i]), step > 0 ? 0 : std::min<std::int64_t>(0, high), std::max(high, low));
    const std::int64_t end = std::clamp(wrapped(args.ends[i]), low, std::max(high, low));
    const std::int64_t span = step > 0 ? end - start : start - end;
    const std::int64_t stride = std::abs(step);
    dims[axis] = dim == 0 || span <= 0 ? 0 : (span + stride - 1) / stride;
    strides[axis] = full[axis] * step;
    if (dims[axis] > 0) origin += start * full[axis];
  }
  if (dims == data.dims() && strides == full) {
    ctx.set(0, data);
    return {};
  }
  Array& out = ctx.out(0, data.dtype(), dims);
  strided_copy(data.storage(), dims, element_at(data.storage(), data.raw(), origin), strides, out.mutable_raw(),
               row_major_strides(dims));
  return {};
}

Status compress(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Attribute* given = ctx.node().attribute("axis");
  Array data = ctx.in(0);
  if (given == nullptr) data = data.reshaped({data.size()});
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{0}), data.rank()));
  OF_ASSIGN(const std::vector<std::int64_t> keep, to_int64s(ctx.in(1)));
  Dims chosen;
  for (std::size_t i = 0; i < keep.size(); ++i) {
    if (keep[i] == 0) continue;
    if (static_cast<std::int64_t>(i) >= data.dims()[axis]) return ctx.invalid("condition is longer than the axis");
    chosen.push_back(static_cast<std::int64_t>(i));
  }
  Dims dims = data.dims();
  dims[axis] = static_cast<std::int64_t>(chosen.size());
  const AxisView view = axis_view(data.dims(), axis);
  Array& out = ctx.out(0, data.dtype(), dims);
  std::int64_t at = 0;
  for (std::int64_t outer = 0; outer < view.outer; ++outer) {
    for (const std::int64_t index : chosen) {
      copy_elements(data.storage(), data.raw(), (outer * view.dim + index) * view.inner, out.mutable_raw(), at,
                    view.inner);
      at += view.inner;
    }
  }
  return {};
}

}  // namespace

KernelRows concat_kernels() {
  static const KernelRow kRows[] = {
      {"Concat", 1, concat},
      {"Split", 1, split},
      {"Slice", 1, slice},
      {"Compress", 9, compress},
  };
  return kRows;
}

}  // namespace onnxfold
