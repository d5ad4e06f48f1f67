// Kernels that permute elements: Transpose, DepthToSpace, SpaceToDepth, ReverseSequence.
#include <numeric>

#include "exec/broadcast.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/strided_copy.h"

namespace onnxfold {
namespace {

// Writes `data`, seen with `view` dims, permuted; the output has dims `out_dims`.
void permute(KernelContext& ctx, const Dims& view, const Dims& order, Dims out_dims) {
  const Array data = ctx.in(0);
  const Dims strides = row_major_strides(view);
  Dims dims, in_strides;
  for (const std::int64_t axis : order) {
    dims.push_back(view[static_cast<std::size_t>(axis)]);
    in_strides.push_back(strides[static_cast<std::size_t>(axis)]);
  }
  Array& out = ctx.out(0, data.dtype(), std::move(out_dims));
  strided_copy(data.storage(), dims, data.raw(), in_strides, out.mutable_raw(), row_major_strides(dims));
}

// Only axes of one change places: the elements stay where they are.
bool keeps_order(const Dims& dims, const Dims& order) {
  std::int64_t last = -1;
  for (const std::int64_t axis : order) {
    if (dims[static_cast<std::size_t>(axis)] == 1) continue;
    if (axis < last) return false;
    last = axis;
  }
  return true;
}

Status transpose(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Dims& dims = ctx.in(0).dims();
  Dims order(dims.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(dims.size() - 1 - i);
  if (const auto given = ctx.node().attr_ints("perm")) order = *given;
  if (order.size() != dims.size()) return ctx.invalid("perm does not fit the rank of the input");
  std::vector<bool> seen(dims.size(), false);
  Dims out_dims;
  for (std::int64_t& axis : order) {
    OF_ASSIGN(const std::size_t at, resolve_axis(ctx, axis, ctx.in(0).rank()));
    if (seen[at]) return ctx.invalid("perm repeats an axis");
    seen[at] = true;
    axis = static_cast<std::int64_t>(at);
    out_dims.push_back(dims[at]);
  }
  if (keeps_order(dims, order)) {
    ctx.set(0, ctx.in(0).reshaped(std::move(out_dims)));
    return {};
  }
  permute(ctx, dims, order, std::move(out_dims));
  return {};
}

Result<std::int64_t> block_size(const KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const std::int64_t block = ctx.attr("blocksize", std::int64_t{0});
  if (ctx.in(0).rank() != 4) return ctx.invalid("input must have rank 4");
  if (block < 1 || block > (1 << 15)) return ctx.invalid("blocksize is out of range");
  return block;
}

Status depth_to_space(KernelContext& ctx) {
  OF_ASSIGN(const std::int64_t b, block_size(ctx));
  const Dims& d = ctx.in(0).dims();
  if (d[1] % (b * b) != 0) return ctx.invalid("channels are not a multiple of blocksize squared");
  const std::int64_t c = d[1] / (b * b);
  const Dims out = {d[0], c, d[2] * b, d[3] * b};
  if (ctx.attr("mode", "DCR") == "CRD") {
    permute(ctx, {d[0], c, b, b, d[2], d[3]}, {0, 1, 4, 2, 5, 3}, out);
  } else {
    permute(ctx, {d[0], b, b, c, d[2], d[3]}, {0, 3, 4, 1, 5, 2}, out);
  }
  return {};
}

Status space_to_depth(KernelContext& ctx) {
  OF_ASSIGN(const std::int64_t b, block_size(ctx));
  const Dims& d = ctx.in(0).dims();
  if (d[2] % b != 0 || d[3] % b != 0) return ctx.invalid("height and width are not multiples of blocksize");
  const Dims out = {d[0], d[1] * b * b, d[2] / b, d[3] / b};
  const bool crd = ctx.attr("mode", "DCR") == "CRD";
  permute(ctx, {d[0], d[1], d[2] / b, b, d[3] / b, b}, crd ? Dims{0, 1, 3, 5, 2, 4} : Dims{0, 3, 5, 1, 2, 4}, out);
  return {};
}

Status reverse_sequence(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array data = ctx.in(0);
  const std::int64_t time = ctx.attr("time_axis", std::int64_t{0}), batch = ctx.attr("batch_axis", std::int64_t{1});
  if (data.rank() < 2 || time + batch != 1 || time * batch != 0) {
    return ctx.invalid("time_axis and batch_axis must be 0 and 1 in some order");
  }
  OF_ASSIGN(const std::vector<std::int64_t> lengths, to_int64s(ctx.in(1)));
  const std::int64_t steps = data.dim(static_cast<int>(time)), batches = data.dim(static_cast<int>(batch));
  if (static_cast<std::int64_t>(lengths.size()) != batches) return ctx.invalid("one length per batch is needed");
  const std::int64_t block = steps * batches == 0 ? 0 : data.size() / (steps * batches);
  const std::int64_t time_stride = time == 0 ? batches * block : block;
  const std::int64_t batch_stride = time == 0 ? block : steps * block;
  Array& out = ctx.out(0, data.dtype(), data.dims());
  for (std::int64_t n = 0; n < batches; ++n) {
    const std::int64_t length = lengths[static_cast<std::size_t>(n)];
    if (length < 0 || length > steps) return ctx.invalid("a sequence length is out of range");
    for (std::int64_t t = 0; t < steps; ++t) {
      const std::int64_t from = t < length ? length - 1 - t : t;
      copy_elements(data.storage(), data.raw(), from * time_stride + n * batch_stride, out.mutable_raw(),
                    t * time_stride + n * batch_stride, block);
    }
  }
  return {};
}

}  // namespace

KernelRows transpose_kernels() {
  static const KernelRow kRows[] = {
      {"Transpose", 1, transpose},
      {"DepthToSpace", 1, depth_to_space},
      {"SpaceToDepth", 1, space_to_depth},
      {"ReverseSequence", 10, reverse_sequence},
  };
  return kRows;
}

}  // namespace onnxfold
