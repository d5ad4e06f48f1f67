// The sliding window of convolutions and pooling: attributes, padding and output size.
#pragma once

#include "exec/kernel.h"

namespace onnxfold {

// One entry per spatial axis in every list.
struct Window {
  Dims in, out, kernel, strides, dilations, pads_begin, pads_end;

  std::size_t axes() const { return in.size(); }
  std::int64_t extent(std::size_t axis) const { return (kernel[axis] - 1) * dilations[axis] + 1; }
  // The same window with leading axes of size 1 up to `count` axes.
  Window widened(std::size_t count) const;
};

// Attributes of the node, unchecked against each other: kernel_shape (else `weight_kernel`), strides, dilations, pads,
// each of the right length. Pads are as written, zero for auto_pad. `out` is left empty. Errors: invalid_argument for
// wrong lengths or values.
Result<Window> read_window(const KernelContext& ctx, Dims spatial_in, const Dims* weight_kernel);

// The window of a convolution or pooling operator, with auto_pad and ceil_mode applied. Errors: as above, and when the
// window does not fit in the padded input.
Result<Window> sliding_window(const KernelContext& ctx, Dims spatial_in, const Dims* weight_kernel,
                              bool ceil_mode = false);

// dims without batch and channel. REQUIRES rank >= 2.
inline Dims spatial_dims(const Dims& dims) { return Dims(dims.begin() + 2, dims.end()); }

}  // namespace onnxfold
