#include "passes/reparam/conv/conv_geometry.h"

#include <algorithm>
#include <numeric>

namespace onnxfold {
namespace {

std::int64_t slack(const ConvAxis& axis, bool transposed) {
  return transposed ? axis.high() - axis.end + axis.output_padding : axis.end - axis.high();
}

std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

// An axis with taps from `low` to `high` in steps of `step`, and the given slack. Pads are never negative: a kernel
// that starts after its own output position gets zeros in front.
ConvAxis axis_of(std::int64_t low, std::int64_t high, std::int64_t step, std::int64_t stride, std::int64_t rest,
                 bool transposed) {
  ConvAxis axis;
  axis.dilation = std::max<std::int64_t>(step, 1);
  axis.stride = stride;
  axis.begin = -low;
  axis.size = (high - low) / axis.dilation + 1;
  if (transposed) {
    axis.end = std::max<std::int64_t>(0, axis.high() - rest);
    axis.output_padding = std::max<std::int64_t>(0, rest - axis.high());
  } else {
    axis.end = rest + axis.high();
  }
  return axis;
}

std::optional<ConvAxis> joint_axis(const ConvAxis& a, const ConvAxis& b, bool transposed,
                                   std::optional<std::int64_t> length) {
  if (a.stride != b.stride) return std::nullopt;
  const std::int64_t rest = slack(a, transposed);
  if (rest != slack(b, transposed) &&
      (!length || output_length(a, transposed, *length) != output_length(b, transposed, *length))) {
    return std::nullopt;
  }
  const std::int64_t low = std::min(a.low(), b.low());
  std::int64_t high = std::max(a.high(), b.high());
  std::int64_t step = std::gcd(a.low() - low, b.low() - low);
  if (a.size > 1) step = std::gcd(step, a.dilation);
  if (b.size > 1) step = std::gcd(step, b.dilation);
  if (!transposed && high < -rest) {  // pads at the end would be negative
    step = std::gcd(step, -rest - high);
    high = -rest;
  }
  return axis_of(low, high, step, a.stride, rest, transposed);
}

}  // namespace

std::int64_t ConvGeometry::taps() const {
  return std::accumulate(axes.begin(), axes.end(), std::int64_t{1},
                         [](std::int64_t product, const ConvAxis& axis) { return product * axis.size; });
}

bool ConvGeometry::pointwise() const {
  return std::all_of(axes.begin(), axes.end(), [this](const ConvAxis& axis) {
    return axis.size == 1 && axis.stride == 1 && axis.begin == 0 && slack(axis, transposed) == 0;
  });
}

std::int64_t output_length(const ConvAxis& axis, bool transposed, std::int64_t length) {
  if (transposed) return (length - 1) * axis.stride + 1 + slack(axis, true);
  return floor_div(length - 1 + slack(axis, false), axis.stride) + 1;
}

std::optional<ConvGeometry> joint_geometry(const ConvGeometry& a, const ConvGeometry& b, const Lengths& lengths) {
  if (a.transposed != b.transposed || a.axes.size() != b.axes.size()) return std::nullopt;
  ConvGeometry result{a.transposed, {}};
  for (std::size_t i = 0; i < a.axes.size(); ++i) {
    const auto axis = joint_axis(a.axes[i], b.axes[i], a.transposed, i < lengths.size() ? lengths[i] : std::nullopt);
    if (!axis) return std::nullopt;
    result.axes.push_back(*axis);
  }
  return result;
}

std::int64_t tap_in(const ConvAxis& whole, const ConvAxis& part, std::int64_t index) {
  return (part.low() + index * part.dilation - whole.low()) / whole.dilation;
}

std::optional<ConvGeometry> chained_geometry(const ConvGeometry& first, const ConvGeometry& second, bool zero_outside) {
  if (first.transposed || second.transposed || first.axes.size() != second.axes.size()) return std::nullopt;
  ConvGeometry result;
  for (std::size_t i = 0; i < first.axes.size(); ++i) {
    const ConvAxis& a = first.axes[i];
    const ConvAxis& b = second.axes[i];
    if (!zero_outside && (b.begin > 0 || b.end > 0)) return std::nullopt;
    const std::int64_t low = a.low() + a.stride * b.low();
    const std::int64_t high = a.high() + a.stride * b.high();
    std::int64_t step = 0;
    if (a.size > 1) step = a.dilation;
    if (b.size > 1) step = std::gcd(step, a.stride * b.dilation);
    // floor((floor(n / s) + k) / t) = floor((n + s k) / (s t)), so the number of outputs is kept.
    const std::int64_t rest = slack(a, false) + a.stride * slack(b, false);
    result.axes.push_back(axis_of(low, high, step, a.stride * b.stride, rest, false));
  }
  return result;
}

}  // namespace onnxfold
