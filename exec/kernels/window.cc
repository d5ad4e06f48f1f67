#include "exec/kernels/window.h"

#include <fmt/format.h>

#include <algorithm>

namespace onnxfold {
namespace {

constexpr std::int64_t kLargest = std::int64_t{1} << 31;  // keeps products of two window numbers inside int64

Result<Dims> read_list(const KernelContext& ctx, const char* name, std::size_t length, std::int64_t fallback,
                       std::int64_t smallest) {
  std::optional<std::vector<std::int64_t>> values = ctx.node().attr_ints(name);
  if (!values || values->empty()) return Dims(length, fallback);
  if (values->size() != length)
    return ctx.invalid(fmt::format("{} has {} entries, need {}", name, values->size(), length));
  for (const std::int64_t value : *values) {
    if (value < smallest || value > kLargest) return ctx.invalid(fmt::format("{} has the entry {}", name, value));
  }
  return *values;
}

void pad_same(Window& w, std::size_t axis, bool upper) {
  w.out[axis] = (w.in[axis] + w.strides[axis] - 1) / w.strides[axis];
  const std::int64_t total =
      std::max<std::int64_t>(0, (w.out[axis] - 1) * w.strides[axis] + w.extent(axis) - w.in[axis]);
  w.pads_begin[axis] = upper ? total / 2 : total - total / 2;
  w.pads_end[axis] = total - w.pads_begin[axis];
}

std::int64_t output_size(const Window& w, std::size_t axis, bool ceil_mode) {
  const std::int64_t room = w.in[axis] + w.pads_begin[axis] + w.pads_end[axis] - w.extent(axis),
                     stride = w.strides[axis];
  if (room < 0) return ceil_mode && room > -stride ? 1 : 0;
  std::int64_t out = room / stride + 1;
  if (ceil_mode && room % stride != 0) {
    // A window must not start in the padding behind the input.
    if (out * stride < w.in[axis] + w.pads_begin[axis]) ++out;
  }
  return out;
}

}  // namespace

Window Window::widened(std::size_t count) const {
  Window wide = *this;
  const auto add = [&](Dims& dims, std::int64_t value) { dims.insert(dims.begin(), count - axes(), value); };
  for (Dims* ones : {&wide.in, &wide.out, &wide.kernel, &wide.strides, &wide.dilations}) add(*ones, 1);
  add(wide.pads_begin, 0);
  add(wide.pads_end, 0);
  return wide;
}

Result<Window> read_window(const KernelContext& ctx, Dims spatial_in, const Dims* weight_kernel) {
  Window w;
  const std::size_t axes = spatial_in.size();
  w.in = std::move(spatial_in);
  OF_ASSIGN(w.kernel, read_list(ctx, "kernel_shape", axes, 0, 1));
  if (weight_kernel != nullptr) {
    if (w.kernel != *weight_kernel && !w.kernel.empty() && w.kernel[0] != 0) {
      return ctx.invalid("kernel_shape differs from the weight's shape");
    }
    w.kernel = *weight_kernel;
  }
  for (const std::int64_t size : w.kernel) {
    if (size < 1) return ctx.invalid("the kernel is empty or kernel_shape is missing");
  }
  OF_ASSIGN(w.strides, read_list(ctx, "strides", axes, 1, 1));
  OF_ASSIGN(w.dilations, read_list(ctx, "dilations", axes, 1, 1));
  OF_ASSIGN(const Dims pads, read_list(ctx, "pads", 2 * axes, 0, 0));
  w.pads_begin.assign(pads.begin(), pads.begin() + static_cast<std::ptrdiff_t>(axes));
  w.pads_end.assign(pads.begin() + static_cast<std::ptrdiff_t>(axes), pads.end());
  const std::string mode = ctx.attr("auto_pad", "NOTSET");
  if (mode != "NOTSET" && mode != "SAME_UPPER" && mode != "SAME_LOWER" && mode != "VALID") {
    return ctx.invalid(fmt::format("auto_pad \"{}\" is unknown", mode));
  }
  if (mode != "NOTSET") {
    w.pads_begin.assign(axes, 0);
    w.pads_end.assign(axes, 0);
  }
  return w;
}

Result<Window> sliding_window(const KernelContext& ctx, Dims spatial_in, const Dims* weight_kernel, bool ceil_mode) {
  OF_ASSIGN(Window w, read_window(ctx, std::move(spatial_in), weight_kernel));
  const std::string mode = ctx.attr("auto_pad", "NOTSET");
  w.out.assign(w.axes(), 0);
  for (std::size_t axis = 0; axis < w.axes(); ++axis) {
    if (mode == "SAME_UPPER" || mode == "SAME_LOWER") {
      pad_same(w, axis, mode == "SAME_UPPER");
    } else {
      w.out[axis] = output_size(w, axis, ceil_mode);
    }
    if (w.out[axis] <= 0 && w.in[axis] > 0) {
      return ctx.invalid(
          fmt::format("a window of {} does not fit in axis {} of size {}", w.extent(axis), axis, w.in[axis]));
    }
  }
  return w;
}

}  // namespace onnxfold
