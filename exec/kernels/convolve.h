// The arithmetic of Conv, shared with its fused and quantized spellings.
#pragma once

#include "exec/kernels/window.h"

namespace onnxfold {

// y[n, m, out] = bias[m] + sum over c, k of x[n, c, in] * w[m, c, k], up to three spatial axes, weights [M, C / group,
// kernel].
struct Convolution {
  std::int64_t batch, channels, filters, groups;
  Window window;  // widened to three axes
};

void convolve(const Convolution& conv, const float* x, const float* w, const float* bias,
              float* y);  // bias may be null
void convolve(const Convolution& conv, const double* x, const double* w, const double* bias, double* y);

// Shape checks of X and W and the window of a Conv-like node. Errors: invalid_argument; unsupported beyond 3-D.
Result<Convolution> read_convolution(const KernelContext& ctx, const Dims& x, const Dims& w);

// Column `k` of the patch matrix: for one row of output positions [begin, begin + count) along the last axis.
// Writes patches of `channels` planes of x for output positions [begin, end): columns[(c * kernel + k) * (end - begin)
// + p].
template <typename T>
void gather_patches(const Window& w, const T* x, std::int64_t channels, std::int64_t begin, std::int64_t end, T fill,
                    T* columns) {
  const std::int64_t count = end - begin, plane = w.in[0] * w.in[1] * w.in[2], rows = w.out[1] * w.out[2];
  for (std::int64_t c = 0; c < channels; ++c, x += plane) {
    for (std::int64_t kd = 0; kd < w.kernel[0]; ++kd) {
      for (std::int64_t kh = 0; kh < w.kernel[1]; ++kh) {
        for (std::int64_t kw = 0; kw < w.kernel[2]; ++kw, columns += count) {
          for (std::int64_t at = begin; at < end;) {
            const std::int64_t od = at / rows, oh = at % rows / w.out[2], ow = at % w.out[2];
            const std::int64_t run = std::min(w.out[2] - ow, end - at);
            T* to = columns + (at - begin);
            at += run;
            const std::int64_t id = od * w.strides[0] - w.pads_begin[0] + kd * w.dilations[0];
            const std::int64_t ih = oh * w.strides[1] - w.pads_begin[1] + kh * w.dilations[1];
            if (id < 0 || id >= w.in[0] || ih < 0 || ih >= w.in[1]) {
              std::fill_n(to, run, fill);
              continue;
            }
            const T* from = x + (id * w.in[1] + ih) * w.in[2];
            std::int64_t iw = ow * w.strides[2] - w.pads_begin[2] + kw * w.dilations[2];
            for (std::int64_t i = 0; i < run; ++i, iw += w.strides[2]) {
              to[i] = iw >= 0 && iw < w.in[2] ? from[iw] : fill;
            }
          }
        }
      }
    }
  }
}

}  // namespace onnxfold
