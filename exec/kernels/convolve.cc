// Convolution as products of weights with gathered patches, with short cuts for 1x1 kernels and depthwise groups.
#include "exec/kernels/convolve.h"

#include <fmt/format.h>

#include <algorithm>

#include "exec/broadcast.h"
#include "exec/gemm.h"

namespace onnxfold {
namespace {

// Output positions per block: fixed, so that sums do not depend on threads, and small enough for patches to stay in
// cache.
std::int64_t block_positions(std::int64_t patch, std::int64_t positions) {
  constexpr std::int64_t kBlockElements = 1 << 16;
  const std::int64_t fitting =
      std::clamp<std::int64_t>(kBlockElements / std::max<std::int64_t>(patch, 1), 64, 4096) / 16 * 16;
  return std::min(fitting, std::max<std::int64_t>(positions, 1));
}

bool is_pointwise(const Window& w) {
  for (std::size_t i = 0; i < 3; ++i) {
    if (w.kernel[i] != 1 || w.strides[i] != 1 || w.pads_begin[i] != 0 || w.pads_end[i] != 0) return false;
  }
  return true;
}

// Adds weight * (the row of x shifted by the kernel position) to one output row.
template <typename T>
void add_row(const Window& w, const T* from, T weight, std::int64_t shift, T* to) {
  const std::int64_t stride = w.strides[2];
  const std::int64_t first = shift >= 0 ? 0 : (-shift + stride - 1) / stride;
  const std::int64_t last = std::min(w.out[2], (w.in[2] - shift + stride - 1) / stride);
  if (stride == 1) {
    for (std::int64_t i = first; i < last; ++i) to[i] += weight * from[i + shift];
  } else {
    for (std::int64_t i = first; i < last; ++i) to[i] += weight * from[i * stride + shift];
  }
}

template <typename T>
void depthwise_plane(const Window& w, const T* x, const T* weight, T bias, T* y) {
  std::fill_n(y, w.out[0] * w.out[1] * w.out[2], bias);
  for (std::int64_t od = 0; od < w.out[0]; ++od) {
    for (std::int64_t oh = 0; oh < w.out[1]; ++oh) {
      T* to = y + (od * w.out[1] + oh) * w.out[2];
      const T* k = weight;
      for (std::int64_t kd = 0; kd < w.kernel[0]; ++kd) {
        const std::int64_t id = od * w.strides[0] - w.pads_begin[0] + kd * w.dilations[0];
        for (std::int64_t kh = 0; kh < w.kernel[1]; ++kh, k += w.kernel[2]) {
          const std::int64_t ih = oh * w.strides[1] - w.pads_begin[1] + kh * w.dilations[1];
          if (id < 0 || id >= w.in[0] || ih < 0 || ih >= w.in[1]) continue;
          const T* from = x + (id * w.in[1] + ih) * w.in[2];
          for (std::int64_t kw = 0; kw < w.kernel[2]; ++kw) {
            add_row(w, from, k[kw], kw * w.dilations[2] - w.pads_begin[2], to);
          }
        }
      }
    }
  }
}

template <typename T>
void depthwise(const Convolution& conv, const T* x, const T* weight, const T* bias, T* y) {
  const Window& w = conv.window;
  const std::int64_t in = element_count(w.in), out = element_count(w.out), kernel = element_count(w.kernel);
  const std::int64_t multiple = conv.filters / conv.groups;
  const std::int64_t cost = std::max<std::int64_t>(1, out * kernel);
  parallel_for(conv.batch * conv.filters, std::max<std::int64_t>(1, kElementGrain / cost),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   const std::int64_t n = i / conv.filters, m = i % conv.filters;
                   depthwise_plane(w, x + (n * conv.channels + m / multiple) * in, weight + m * kernel,
                                   bias ? bias[m] : T{0}, y + i * out);
                 }
               });
}

template <typename T>
void start_with_bias(const Convolution& conv, const T* bias, T* y) {
  const std::int64_t out = element_count(conv.window.out);
  parallel_for(conv.batch * conv.filters, std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, out)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) std::fill_n(y + i * out, out, bias[i % conv.filters]);
               });
}

template <typename T>
void pointwise(const Convolution& conv, const T* x, const T* weight, const T* bias, T* y) {
  const std::int64_t positions = element_count(conv.window.out);
  const std::int64_t in = conv.channels / conv.groups, out = conv.filters / conv.groups;
  if (bias) start_with_bias(conv, bias, y);
  std::vector<GemmItem<T>> items;
  for (std::int64_t i = 0; i < conv.batch * conv.groups; ++i) {
    items.push_back({weight + i % conv.groups * out * in, x + i * in * positions, y + i * out * positions});
  }
  gemm_batch(items, out, positions, in, T{1}, in, false, positions, false, bias ? T{1} : T{0}, positions);
}

// One block of output positions of one group of one image.
template <typename T>
void patch_block(const Convolution& conv, const T* x, const T* weight, const T* bias, std::int64_t begin,
                 std::int64_t end, std::vector<T>& columns, T* y) {
  const Window& w = conv.window;
  const std::int64_t in = conv.channels / conv.groups, out = conv.filters / conv.groups;
  const std::int64_t positions = element_count(w.out), patch = in * element_count(w.kernel), count = end - begin;
  columns.resize(static_cast<std::size_t>(patch * count));
  gather_patches(w, x, in, begin, end, T{0}, columns.data());
  if (bias) {
    for (std::int64_t m = 0; m < out; ++m) std::fill_n(y + m * positions + begin, count, bias[m]);
  }
  gemm(out, count, patch, T{1}, weight, patch, false, columns.data(), count, false, bias ? T{1} : T{0}, y + begin,
       positions);
}

template <typename T>
void by_patches(const Convolution& conv, const T* x, const T* weight, const T* bias, T* y) {
  const Window& w = conv.window;
  const std::int64_t in = conv.channels / conv.groups, out = conv.filters / conv.groups;
  const std::int64_t positions = element_count(w.out), patch = in * element_count(w.kernel);
  const std::int64_t size = block_positions(patch, positions), blocks = (positions + size - 1) / size;
  const std::int64_t cost = std::max<std::int64_t>(1, patch * std::min(size, positions) * out / 8);
  parallel_for(conv.batch * conv.groups * blocks, std::max<std::int64_t>(1, kElementGrain / cost),
               [&](std::int64_t first, std::int64_t last) {
                 std::vector<T> columns;
                 for (std::int64_t i = first; i < last; ++i) {
                   const std::int64_t image = i / blocks, group = image % conv.groups, begin = i % blocks * size;
                   patch_block(conv, x + image * in * element_count(w.in), weight + group * out * patch,
                               bias ? bias + group * out : nullptr, begin, std::min(begin + size, positions), columns,
                               y + image * out * positions);
                 }
               });
}

template <typename T>
void run(const Convolution& conv, const T* x, const T* weight, const T* bias, T* y) {
  if (conv.batch == 0 || conv.filters == 0 || element_count(conv.window.out) == 0) return;
  constexpr std::int64_t kManyFilters = 8;  // of one channel: a product is faster than row by row
  if (conv.groups == conv.channels && conv.filters < kManyFilters * conv.groups)
    return depthwise(conv, x, weight, bias, y);
  if (is_pointwise(conv.window)) return pointwise(conv, x, weight, bias, y);
  by_patches(conv, x, weight, bias, y);
}

}  // namespace

void convolve(const Convolution& conv, const float* x, const float* w, const float* bias, float* y) {
  run(conv, x, w, bias, y);
}
void convolve(const Convolution& conv, const double* x, const double* w, const double* bias, double* y) {
  run(conv, x, w, bias, y);
}

Result<Convolution> read_convolution(const KernelContext& ctx, const Dims& x, const Dims& w) {
  if (x.size() < 3 || x.size() != w.size()) {
    return ctx.invalid(fmt::format("X {} and W {} must have the same rank, at least 3", dims_text(x), dims_text(w)));
  }
  if (x.size() > 5) return ctx.unsupported("more than three spatial axes");
  const std::int64_t groups = ctx.attr("group", std::int64_t{1});
  if (groups < 1 || w[0] % groups != 0 || x[1] % groups != 0 || x[1] / groups != w[1]) {
    return ctx.invalid(
        fmt::format("X {} and W {} do not fit together with group {}", dims_text(x), dims_text(w), groups));
  }
  const Dims kernel = spatial_dims(w);
  OF_ASSIGN(const Window window, sliding_window(ctx, spatial_dims(x), &kernel));
  return Convolution{x[0], x[1], w[0], groups, window.widened(3)};
}

}  // namespace onnxfold
