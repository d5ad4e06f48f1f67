// DeformConv: convolution whose sampling positions carry learned offsets and weights.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/gemm.h"
#include "exec/kernels/kernels.h"
#include "exec/kernels/window.h"

namespace onnxfold {
namespace {

struct Deform {
  std::int64_t batch, channels, filters, groups, offset_groups;
  Window w;  // two axes
  std::int64_t positions() const { return w.out[0] * w.out[1]; }
  std::int64_t kernel() const { return w.kernel[0] * w.kernel[1]; }
};

// Value of a plane between its pixels; outside it is zero.
template <typename T>
double bilinear(const T* plane, std::int64_t height, std::int64_t width, double y, double x) {
  if (!(y > -1 && x > -1 && y < static_cast<double>(height) && x < static_cast<double>(width))) return 0;
  const auto top = static_cast<std::int64_t>(std::floor(y)), left = static_cast<std::int64_t>(std::floor(x));
  const double down = y - static_cast<double>(top), right = x - static_cast<double>(left);
  const auto at = [&](std::int64_t i, std::int64_t j) {
    return i < 0 || j < 0 || i >= height || j >= width ? 0.0 : static_cast<double>(plane[i * width + j]);
  };
  return (1 - down) * ((1 - right) * at(top, left) + right * at(top, left + 1)) +
         down * ((1 - right) * at(top + 1, left) + right * at(top + 1, left + 1));
}

// Row (channel, kernel position) of the patch matrix of one image.
template <typename T>
void sample_row(const Deform& d, const T* plane, const T* offsets, const T* mask, std::int64_t k, T* row) {
  const Window& w = d.w;
  const std::int64_t kh = k / w.kernel[1], kw = k % w.kernel[1];
  const T* down = offsets + 2 * k * d.positions();
  const T* right = down + d.positions();
  for (std::int64_t p = 0; p < d.positions(); ++p) {
    const std::int64_t y = p / w.out[1] * w.strides[0] - w.pads_begin[0] + kh * w.dilations[0];
    const std::int64_t x = p % w.out[1] * w.strides[1] - w.pads_begin[1] + kw * w.dilations[1];
    const double value = bilinear(plane, w.in[0], w.in[1], static_cast<double>(y) + static_cast<double>(down[p]),
                                  static_cast<double>(x) + static_cast<double>(right[p]));
    row[p] = static_cast<T>(mask ? value * static_cast<double>(mask[k * d.positions() + p]) : value);
  }
}

template <typename T>
void run(const Deform& d, const T* x, const T* weight, const T* offset, const T* bias, const T* mask, T* y) {
  const std::int64_t positions = d.positions(), kernel = d.kernel(), plane = d.w.in[0] * d.w.in[1];
  const std::int64_t in = d.channels / d.groups, out = d.filters / d.groups, share = d.channels / d.offset_groups;
  std::vector<T> columns(static_cast<std::size_t>(d.channels * kernel * positions));
  for (std::int64_t n = 0; n < d.batch; ++n) {
    parallel_for(d.channels * kernel, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t c = i / kernel, group = n * d.offset_groups + c / share;
        sample_row(d, x + (n * d.channels + c) * plane, offset + group * 2 * kernel * positions,
                   mask ? mask + group * kernel * positions : nullptr, i % kernel, columns.data() + i * positions);
      }
    });
    for (std::int64_t g = 0; g < d.groups; ++g) {
      T* to = y + (n * d.filters + g * out) * positions;
      for (std::int64_t m = 0; m < out; ++m)
        std::fill_n(to + m * positions, positions, bias ? bias[g * out + m] : T{0});
      gemm(out, positions, in * kernel, T{1}, weight + g * out * in * kernel, in * kernel, false,
           columns.data() + g * in * kernel * positions, positions, false, T{1}, to, positions);
    }
  }
}

Status check(const KernelContext& ctx, const Deform& d) {
  const Dims offset{d.batch, d.offset_groups * 2 * d.kernel(), d.w.out[0], d.w.out[1]};
  if (ctx.in(2).dims() != offset) {
    return ctx.invalid(fmt::format("offset {} must be {}", dims_text(ctx.in(2).dims()), dims_text(offset)));
  }
  if (ctx.has(3) && ctx.in(3).size() != d.filters) return ctx.invalid("bias does not fit the filters");
  const Dims mask{d.batch, d.offset_groups * d.kernel(), d.w.out[0], d.w.out[1]};
  if (ctx.has(4) && ctx.in(4).dims() != mask) return ctx.invalid("mask must be " + dims_text(mask));
  for (std::size_t i = 1; i < 5; ++i) {
    if (ctx.has(i) && ctx.in(i).storage() != ctx.in(0).storage()) return ctx.invalid("inputs differ in type");
  }
  return {};
}

Status deform_conv(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  const Array &x = ctx.in(0), &w = ctx.in(1);
  const std::int64_t groups = ctx.attr("group", std::int64_t{1}),
                     offset_groups = ctx.attr("offset_group", std::int64_t{1});
  if (x.rank() != 4) return ctx.unsupported("only two spatial axes");
  if (w.rank() != 4 || groups < 1 || offset_groups < 1 || x.dim(1) != w.dim(1) * groups || w.dim(0) % groups != 0 ||
      x.dim(1) % offset_groups != 0) {
    return ctx.invalid(fmt::format("X {} and W {} do not fit together", dims_text(x.dims()), dims_text(w.dims())));
  }
  const Dims kernel = spatial_dims(w.dims());
  OF_ASSIGN(Window window, sliding_window(ctx, spatial_dims(x.dims()), &kernel));
  const Deform d{x.dim(0), x.dim(1), w.dim(0), groups, offset_groups, window};
  OF_TRY(check(ctx, d));
  Array& y = ctx.out(0, x.dtype(), {d.batch, d.filters, window.out[0], window.out[1]});
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    run<T>(d, x.data<T>(), w.data<T>(), ctx.in(2).data<T>(), ctx.has(3) ? ctx.in(3).data<T>() : nullptr,
           ctx.has(4) ? ctx.in(4).data<T>() : nullptr, y.mutable_data<T>());
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

constexpr KernelRow kRows[] = {{"DeformConv", 19, deform_conv}};

}  // namespace

KernelRows deform_conv_kernels() { return kRows; }

}  // namespace onnxfold
