// Convolutions with constant weights as numbers in double: what structural reparameterization adds, scales and chains.
//
// Conv, ConvTranspose, Gemm (a convolution without spatial axes), AveragePool and the identity are all read into the
// same form, in which parallel ones add up tap by tap (ACNet, arXiv 1908.03930; DBB, 2103.13425; RepVGG, 2101.03697).
#pragma once

#include <optional>
#include <vector>

#include "passes/reparam/conv/conv_geometry.h"

namespace onnxfold {

struct ConvShape {
  ConvGeometry geometry;
  std::int64_t groups = 1, in = 0, out = 0;  // channels of input and output, all groups together

  // Multiply-adds per output position (per input position when transposed).
  std::int64_t work() const { return out * (in / groups) * geometry.taps(); }
};

struct ConvKernel {
  ConvShape shape;
  std::vector<double> weight;  // [out, in / groups, taps]; within its group an output channel sees all input channels
  std::vector<double> bias;    // [out]
};

// y = x for `channels` channels.
ConvShape identity_shape(std::int64_t channels, const ConvGeometry& like);
ConvKernel identity_kernel(const ConvShape& shape);

// The convolution that computes the sum of both: their joint geometry and as many groups as both allow.
std::optional<ConvShape> joint_shape(const ConvShape& a, const ConvShape& b, const Lengths& lengths);
// The convolution that computes `second` of `first`; see chained_geometry.
std::optional<ConvShape> chained_shape(const ConvShape& first, const ConvShape& second, bool zero_outside);

// A kernel of zeros.
ConvKernel zero_kernel(const ConvShape& shape);
// whole += scale[out] * part. REQUIRES: whole.shape is a joint shape of part.shape.
void add_kernel(ConvKernel& whole, const ConvKernel& part, const std::vector<double>& scale);
// The numbers of a chained_shape.
ConvKernel chained_kernel(const ConvShape& shape, const ConvKernel& first, const ConvKernel& second);
// kernel(scale[in] * x + shift[in]) as a kernel of x. REQUIRES: shift is zero or the kernel reads no padding.
void scale_inputs(ConvKernel& kernel, const std::vector<double>& scale, const std::vector<double>& shift);
// Output channels of both, one after the other. REQUIRES: one group, equal inputs and geometry.
ConvKernel stacked_kernel(const ConvKernel& a, const ConvKernel& b);

bool reads_padding(const ConvGeometry& geometry);

}  // namespace onnxfold
