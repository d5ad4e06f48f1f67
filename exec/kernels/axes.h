// Axis arguments of kernels.
#pragma once

#include <fmt/format.h>

#include "exec/kernel.h"

namespace onnxfold {

// Position of `axis`, which may count from the end, in [0, rank).
inline Result<std::size_t> resolve_axis(const KernelContext& ctx, std::int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) return ctx.invalid(fmt::format("axis {} is out of range for rank {}", axis, rank));
  return static_cast<std::size_t>(axis < 0 ? axis + rank : axis);
}

// An array seen as [outer, dim, inner] around one axis.
struct AxisView {
  std::int64_t outer = 1, dim = 1, inner = 1;
};
inline AxisView axis_view(const Dims& dims, std::size_t axis) {
  AxisView view;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    (i < axis ? view.outer : i == axis ? view.dim : view.inner) *= dims[i];
  }
  return view;
}

}  // namespace onnxfold
