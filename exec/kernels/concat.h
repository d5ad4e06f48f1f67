// Joining and cutting arrays, for kernels that do it as part of something else (sequences, loops).
#pragma once

#include <vector>

#include "exec/kernel.h"

namespace onnxfold {

// Errors: invalid_argument naming the node when types, ranks or other dimensions differ.
Result<Array> concatenate(const KernelContext& ctx, const std::vector<Array>& arrays, std::int64_t axis);

// Elements [start, start + length) along `axis`, copied. REQUIRES: they exist.
Array slice_axis(const KernelContext& ctx, const Array& data, std::size_t axis, std::int64_t start,
                 std::int64_t length);

}  // namespace onnxfold
