// Where the taps of a convolution fall: the part of merging convolutions that needs no weights.
//
// Along one axis, output o of a convolution reads input o * stride + offset for the offsets low, low + dilation, ..,
// high (low = -begin); there are floor((length - 1 + slack) / stride) + 1 outputs, where slack = end - high. A
// transposed convolution adds to output i * stride + offset, and has (length - 1) * stride + 1 + slack outputs, where
// slack = high - end + output_padding. So two convolutions of one input have the same output positions whenever stride
// and slack agree, whatever their kernels and pads.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace onnxfold {

struct ConvAxis {
  std::int64_t size = 1, dilation = 1, stride = 1;
  std::int64_t begin = 0, end = 0;  // pads
  std::int64_t output_padding = 0;  // of a transposed convolution

  std::int64_t low() const { return -begin; }
  std::int64_t high() const { return low() + dilation * (size - 1); }
  friend bool operator==(const ConvAxis&, const ConvAxis&) = default;
};

struct ConvGeometry {
  bool transposed = false;
  std::vector<ConvAxis> axes;  // spatial; empty: a product with a matrix

  std::int64_t taps() const;
  bool pointwise() const;  // one tap at offset 0, stride 1, as many outputs as inputs
  friend bool operator==(const ConvGeometry&, const ConvGeometry&) = default;
};

// Length of each spatial axis of the input; nullopt: not known.
using Lengths = std::vector<std::optional<std::int64_t>>;

// Number of outputs along one axis for an input of `length`.
std::int64_t output_length(const ConvAxis& axis, bool transposed, std::int64_t length);

// The smallest geometry that holds the taps of both at the places where they are, for convolutions of the same input
// whose outputs are added. Nullopt when their output positions differ, or might for a length that is not known.
std::optional<ConvGeometry> joint_geometry(const ConvGeometry& a, const ConvGeometry& b, const Lengths& lengths);

// Where tap `index` of `part` along `axis` lies in `whole`. REQUIRES: `whole` is a joint geometry of `part`.
std::int64_t tap_in(const ConvAxis& whole, const ConvAxis& part, std::int64_t index);

// `second` after `first`, neither transposed: taps at first + stride of first * second. Nullopt when pads of `second`
// would read zeros where the one convolution goes on reading; with `zero_outside` the result of `first` is known to
// be zero beyond its ends (no bias, nothing but padding there), so that pads of `second` are right.
std::optional<ConvGeometry> chained_geometry(const ConvGeometry& first, const ConvGeometry& second, bool zero_outside);

}  // namespace onnxfold
