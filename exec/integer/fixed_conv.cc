// Conv as a product of integers: windows of the input laid out as rows, zeros where they reach into the padding.
#include <algorithm>

#include "exec/integer/fixed_arithmetic.h"

namespace onnxfold {
namespace {

std::int64_t product_of(const Dims& dims, std::size_t from) {
  std::int64_t product = 1;
  for (std::size_t i = from; i < dims.size(); ++i) product *= dims[i];
  return product;
}

// Walks all positions of `dims` in row-major order.
template <typename F>
void for_each_position(const Dims& dims, F&& fn) {
  Dims at(dims.size(), 0);
  for (std::int64_t i = 0, n = element_count(dims); i < n; ++i) {
    fn(i, at);
    for (std::size_t axis = dims.size(); axis-- > 0;) {
      if (++at[axis] < dims[axis]) break;
      at[axis] = 0;
    }
  }
}

// [outputs of one image, channels of a group * kernel]
FixedArray windows(const FixedArray& x, const FixedConv& conv, std::int64_t image, std::int64_t group,
                   std::int64_t channels, const Dims& kernel, const Dims& out) {
  const Dims space(x.dims.begin() + 2, x.dims.end());
  const std::int64_t area = element_count(kernel), plane = element_count(space);
  FixedArray rows({element_count(out), channels * area});
  for_each_position(out, [&](std::int64_t row, const Dims& place) {
    for_each_position(kernel, [&](std::int64_t tap, const Dims& offset) {
      std::int64_t at = 0;
      for (std::size_t i = 0; i < space.size(); ++i) {
        const std::int64_t where = place[i] * conv.strides[i] + offset[i] * conv.dilations[i] - conv.pads[i];
        if (where < 0 || where >= space[i]) return;
        at = at * space[i] + where;
      }
      for (std::int64_t c = 0; c < channels; ++c) {
        const auto from = static_cast<std::size_t>((image * x.dims[1] + group * channels + c) * plane + at);
        const auto to = static_cast<std::size_t>((row * channels + c) * area + tap);
        rows.mantissas[to] = x.mantissas[from];
        rows.exponents[to] = x.exponents[from];
      }
    });
  });
  return rows;
}

}  // namespace

std::optional<FixedArray> fixed_conv(const FixedArray& x, const FixedArray& w, const FixedConv& conv, Peak& peak) {
  const std::size_t spatial = conv.strides.size();
  if (x.dims.size() != spatial + 2 || w.dims.size() != spatial + 2 || conv.group < 1) return {};
  const std::int64_t channels = w.dims[1], outputs = w.dims[0] / conv.group;
  if (channels * conv.group != x.dims[1] || outputs * conv.group != w.dims[0]) return {};
  const Dims kernel(w.dims.begin() + 2, w.dims.end());
  Dims out;
  for (std::size_t i = 0; i < spatial; ++i) {
    const std::int64_t reach = (kernel[i] - 1) * conv.dilations[i] + 1;
    out.push_back((x.dims[i + 2] + conv.pads[i] + conv.pads[i + spatial] - reach) / conv.strides[i] + 1);
    if (out.back() < 1) return {};
  }
  Dims dims{x.dims[0], w.dims[0]};
  dims.insert(dims.end(), out.begin(), out.end());
  FixedArray result(dims);
  const std::int64_t size = channels * product_of(w.dims, 2), area = element_count(out);
  for (std::int64_t g = 0; g < conv.group; ++g) {
    FixedArray weights({outputs, size});
    std::copy_n(w.mantissas.begin() + g * outputs * size, outputs * size, weights.mantissas.begin());
    std::copy_n(w.exponents.begin() + g * outputs * size, outputs * size, weights.exponents.begin());
    for (std::int64_t n = 0; n < x.dims[0]; ++n) {
      const FixedArray rows = windows(x, conv, n, g, channels, kernel, out);
      const auto made = fixed_matmul(weights, fixed_transpose(rows), peak);
      if (!made) return {};
      const std::int64_t start = (n * w.dims[0] + g * outputs) * area;
      std::copy(made->mantissas.begin(), made->mantissas.end(), result.mantissas.begin() + start);
      std::copy(made->exponents.begin(), made->exponents.end(), result.exponents.begin() + start);
    }
  }
  return result;
}

}  // namespace onnxfold
