// Gather, GatherElements, GatherND.
#include <algorithm>
#include <atomic>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/parallel.h"
#include "exec/strided_copy.h"

namespace onnxfold {
namespace {

// Indices in [0, dim), negative ones counted from the end.
Result<std::vector<std::int64_t>> checked_indices(const KernelContext& ctx, const Array& array, std::int64_t dim) {
  OF_ASSIGN(std::vector<std::int64_t> indices, to_int64s(array));
  for (std::int64_t& index : indices) {
    if (index < -dim || index >= dim) {
      return ctx.invalid(fmt::format("index {} is out of range for a dimension of {}", index, dim));
    }
    if (index < 0) index += dim;
  }
  return indices;
}

// Copies block `source[i]` of `block` elements to place i.
void gather_blocks(const Array& data, const std::vector<std::int64_t>& source, std::int64_t block, Array& out) {
  const std::int64_t grain = std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, block));
  visit_movable(data.storage(), [&]<typename T>(Tag<T>) {
    const T* in = data.data<T>();
    T* to = out.mutable_data<T>();
    parallel_for(static_cast<std::int64_t>(source.size()), grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        std::copy_n(in + source[static_cast<std::size_t>(i)] * block, block, to + i * block);
      }
    });
  });
}

Status gather(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array data = ctx.in(0);
  const Array indices = ctx.in(1);
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{0}), data.rank()));
  const AxisView view = axis_view(data.dims(), axis);
  OF_ASSIGN(const std::vector<std::int64_t> picks, checked_indices(ctx, indices, view.dim));
  Dims dims(data.dims().begin(), data.dims().begin() + static_cast<std::ptrdiff_t>(axis));
  dims.insert(dims.end(), indices.dims().begin(), indices.dims().end());
  dims.insert(dims.end(), data.dims().begin() + static_cast<std::ptrdiff_t>(axis) + 1, data.dims().end());
  Array& out = ctx.out(0, data.dtype(), std::move(dims));
  if (out.size() == 0) return {};
  if (view.outer == 1) {
    gather_blocks(data, picks, view.inner, out);
    return {};
  }
  std::vector<std::int64_t> source;
  source.reserve(static_cast<std::size_t>(view.outer) * picks.size());
  for (std::int64_t outer = 0; outer < view.outer; ++outer) {
    for (const std::int64_t pick : picks) source.push_back(outer * view.dim + pick);
  }
  gather_blocks(data, source, view.inner, out);
  return {};
}

Status gather_elements(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array data = ctx.in(0);
  const Array indices = ctx.in(1);
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{0}), data.rank()));
  if (indices.rank() != data.rank()) return ctx.invalid("indices and data differ in rank");
  for (std::size_t i = 0; i < axis + 1 || i < data.dims().size(); ++i) {
    if (i != axis && indices.dims()[i] > data.dims()[i]) return ctx.invalid("indices are larger than data");
  }
  OF_ASSIGN(const std::vector<std::int64_t> picks, checked_indices(ctx, indices, data.dims()[axis]));
  const Dims strides = row_major_strides(data.dims());
  std::vector<std::int64_t> source(picks.size());
  Dims index(data.dims().size(), 0);
  for (std::size_t i = 0; i < picks.size(); ++i) {
    std::int64_t at = picks[i] * strides[axis];
    for (std::size_t k = 0; k < index.size(); ++k) at += k == axis ? 0 : index[k] * strides[k];
    source[i] = at;
    for (std::size_t k = index.size(); k-- > 0;) {
      if (++index[k] < indices.dims()[k]) break;
      index[k] = 0;
    }
  }
  gather_blocks(data, source, 1, ctx.out(0, data.dtype(), indices.dims()));
  return {};
}

Status gather_nd(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array data = ctx.in(0);
  const Array indices = ctx.in(1);
  const std::int64_t batch_dims = ctx.attr("batch_dims", std::int64_t{0});
  if (indices.rank() < 1 || batch_dims < 0 || batch_dims >= std::min(indices.rank(), data.rank())) {
    return ctx.invalid("batch_dims does not fit the ranks");
  }
  const auto batch = static_cast<std::size_t>(batch_dims);
  const std::int64_t width = indices.dims().back();
  if (width < 0 || width > data.rank() - batch_dims) return ctx.invalid("indices are wider than data");
  const auto end = static_cast<std::size_t>(batch_dims + width);
  if (!std::equal(data.dims().begin(), data.dims().begin() + batch_dims, indices.dims().begin())) {
    return ctx.invalid("batch dimensions of data and indices differ");
  }
  Dims dims(indices.dims().begin(), indices.dims().end() - 1);
  dims.insert(dims.end(), data.dims().begin() + static_cast<std::ptrdiff_t>(end), data.dims().end());
  OF_ASSIGN(const std::vector<std::int64_t> flat, to_int64s(indices));
  const Dims strides = row_major_strides(data.dims());
  const std::int64_t block = end == 0 ? data.size() : strides[end - 1];
  Array& out = ctx.out(0, data.dtype(), std::move(dims));
  if (out.size() == 0) return {};
  const std::int64_t tuples = out.size() / block;
  const std::int64_t batches = element_count(Dims(data.dims().begin(), data.dims().begin() + batch_dims));
  const std::int64_t batch_blocks = data.size() / block / batches, per_batch = tuples / batches;
  std::vector<std::int64_t> source(static_cast<std::size_t>(tuples));
  for (std::int64_t t = 0; t < tuples; ++t) {
    std::int64_t at = t / per_batch * batch_blocks;
    for (std::size_t k = batch; k < end; ++k) {
      const std::int64_t dim = data.dims()[k];
      std::int64_t index = flat[static_cast<std::size_t>(t * width) + k - batch];
      if (index < -dim || index >= dim) return ctx.invalid(fmt::format("index {} is out of range", index));
      if (index < 0) index += dim;
      at += index * (strides[k] / block);
    }
    source[static_cast<std::size_t>(t)] = at;
  }
  gather_blocks(data, source, block, out);
  return {};
}

}  // namespace

KernelRows gather_kernels() {
  static const KernelRow kRows[] = {
      {"Gather", 1, gather},
      {"GatherElements", 11, gather_elements},
      {"GatherND", 11, gather_nd},
  };
  return kRows;
}

}  // namespace onnxfold
