// Kernels that change or report shapes without moving elements.
#include <fmt/format.h>

#include <algorithm>

#include "exec/broadcast.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

Array int64_vector(const KernelContext& ctx, const std::vector<std::int64_t>& values) {
  Array array = ctx.make(DType::kInt64, {static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), array.mutable_data<std::int64_t>());
  return array;
}

Status identity(KernelContext& ctx) {
  if (!ctx.has(0)) return ctx.invalid("input 0 is missing");
  ctx.set(0, ctx.datum(0));
  return {};
}

Status shape(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Dims& dims = ctx.in(0).dims();
  const auto rank = static_cast<std::int64_t>(dims.size());
  const auto clamp = [&](std::int64_t at) { return std::clamp<std::int64_t>(at < 0 ? at + rank : at, 0, rank); };
  const std::int64_t start = clamp(ctx.attr("start", std::int64_t{0}));
  const std::int64_t end = std::max(start, clamp(ctx.attr("end", rank)));
  ctx.set(0, int64_vector(ctx, {dims.begin() + start, dims.begin() + end}));
  return {};
}

Status size(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  ctx.out(0, DType::kInt64, {}).mutable_data<std::int64_t>()[0] = ctx.in(0).size();
  return {};
}

Status set_reshaped(KernelContext& ctx, Dims dims) {
  std::int64_t count = 1;
  for (const std::int64_t dim : dims) {
    if (dim < 0 || __builtin_mul_overflow(count, dim, &count)) return ctx.invalid("bad shape " + dims_text(dims));
  }
  if (count != ctx.in(0).size()) {
    return ctx.invalid(fmt::format("cannot reshape {} to {}", dims_text(ctx.in(0).dims()), dims_text(dims)));
  }
  ctx.set(0, ctx.in(0).reshaped(std::move(dims)));
  return {};
}

Status reshape(KernelContext& ctx) {
  OF_TRY(ctx.need(ctx.opset() < 5 ? 1 : 2));
  Dims target;
  if (ctx.opset() < 5) {
    target = ctx.node().attr_ints("shape").value_or(Dims{});
  } else {
    OF_ASSIGN(target, to_int64s(ctx.in(1)));
  }
  const Array& data = ctx.in(0);
  const bool keep_zero = ctx.attr("allowzero", std::int64_t{0}) != 0;
  std::int64_t known = 1;
  int unknown = -1;
  for (std::size_t i = 0; i < target.size(); ++i) {
    if (target[i] == -1) {
      if (unknown >= 0) return ctx.invalid("shape has more than one -1");
      unknown = static_cast<int>(i);
      continue;
    }
    if (target[i] == 0 && !keep_zero) {
      if (i >= data.dims().size()) return ctx.invalid("shape copies a dimension the input does not have");
      target[i] = data.dims()[i];
    }
    if (target[i] < 0 || __builtin_mul_overflow(known, target[i], &known)) {
      return ctx.invalid("bad shape " + dims_text(target));
    }
  }
  if (unknown >= 0) target[static_cast<std::size_t>(unknown)] = known == 0 ? 0 : data.size() / known;
  return set_reshaped(ctx, std::move(target));
}

Status flatten(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array& data = ctx.in(0);
  std::int64_t axis = ctx.attr("axis", std::int64_t{1});
  if (axis < 0) axis += data.rank();
  if (axis < 0 || axis > data.rank()) return ctx.invalid("axis is out of range");
  const auto middle = data.dims().begin() + axis;
  return set_reshaped(
      ctx, {element_count(Dims(data.dims().begin(), middle)), element_count(Dims(middle, data.dims().end()))});
}

// The axes, an attribute before opset 13 and an input since; nullopt when not given.
Result<std::optional<Dims>> given_axes(const KernelContext& ctx) {
  if (ctx.opset() < 13) return ctx.node().attr_ints("axes");
  if (!ctx.has(1)) return std::optional<Dims>();
  OF_ASSIGN(Dims axes, to_int64s(ctx.in(1)));
  return std::optional<Dims>(std::move(axes));
}

Status squeeze(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  OF_ASSIGN(const std::optional<Dims> axes, given_axes(ctx));
  const Dims& dims = ctx.in(0).dims();
  std::vector<bool> drop(dims.size(), false);
  if (axes) {
    for (const std::int64_t axis : *axes) {
      OF_ASSIGN(const std::size_t at, resolve_axis(ctx, axis, ctx.in(0).rank()));
      if (dims[at] != 1) return ctx.invalid(fmt::format("axis {} of {} is not 1", axis, dims_text(dims)));
      drop[at] = true;
    }
  } else {
    for (std::size_t i = 0; i < dims.size(); ++i) drop[i] = dims[i] == 1;
  }
  Dims kept;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (!drop[i]) kept.push_back(dims[i]);
  }
  return set_reshaped(ctx, std::move(kept));
}

Status unsqueeze(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  OF_ASSIGN(const std::optional<Dims> axes, given_axes(ctx));
  if (!axes) return ctx.invalid("axes are missing");
  const std::size_t rank = ctx.in(0).dims().size() + axes->size();
  std::vector<bool> added(rank, false);
  for (const std::int64_t axis : *axes) {
    OF_ASSIGN(const std::size_t at, resolve_axis(ctx, axis, static_cast<int>(rank)));
    if (added[at]) return ctx.invalid(fmt::format("axis {} is given twice", axis));
    added[at] = true;
  }
  Dims dims(rank, 1);
  auto next = ctx.in(0).dims().begin();
  for (std::size_t i = 0; i < rank; ++i) {
    if (!added[i]) dims[i] = *next++;
  }
  return set_reshaped(ctx, std::move(dims));
}

}  // namespace

KernelRows shape_kernels() {
  static const KernelRow kRows[] = {
      {"Identity", 1, identity}, {"Shape", 1, shape},     {"Size", 1, size},           {"Reshape", 1, reshape},
      {"Flatten", 1, flatten},   {"Squeeze", 1, squeeze}, {"Unsqueeze", 1, unsqueeze},
  };
  return kRows;
}

}  // namespace onnxfold
