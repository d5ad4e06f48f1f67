// DFT, STFT, MelWeightMatrix.
#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>

#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/parallel.h"

namespace onnxfold {
namespace {

using Complex = std::complex<double>;

// exp(sign * 2 pi i k / n) for every k below n.
std::vector<Complex> roots_of_unity(std::int64_t n, double sign) {
  std::vector<Complex> roots(static_cast<std::size_t>(n));
  for (std::int64_t k = 0; k < n; ++k) {
    const double angle = sign * 2 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(n);
    roots[static_cast<std::size_t>(k)] = {std::cos(angle), std::sin(angle)};
  }
  return roots;
}

// By the definition below, or by halving while the length is even.
std::vector<Complex> transform(const std::vector<Complex>& x, const std::vector<Complex>& roots, std::size_t stride) {
  const std::size_t n = x.size();
  std::vector<Complex> y(n);
  if (n % 2 != 0 || n < 8) {
    for (std::size_t k = 0; k < n; ++k) {
      for (std::size_t i = 0; i < n; ++i) y[k] += x[i] * roots[i * k % n * stride];
    }
    return y;
  }
  std::vector<Complex> even(n / 2), odd(n / 2);
  for (std::size_t i = 0; i < n / 2; ++i) {
    even[i] = x[2 * i];
    odd[i] = x[2 * i + 1];
  }
  even = transform(even, roots, stride * 2);
  odd = transform(odd, roots, stride * 2);
  for (std::size_t k = 0; k < n / 2; ++k) {
    const Complex turned = roots[k * stride] * odd[k];
    y[k] = even[k] + turned;
    y[k + n / 2] = even[k] - turned;
  }
  return y;
}

struct DftPlan {
  std::int64_t length;  // of the transform
  bool inverse, onesided;
  std::int64_t out_length, parts;  // along the axis; 2 for complex output, 1 for real
  std::vector<Complex> roots;
};

// One line of `given` complex numbers, padded with zeros or cut.
std::vector<Complex> run_line(const DftPlan& plan, std::vector<Complex> line) {
  if (plan.inverse && plan.onesided) {  // the other half of the spectrum mirrors the given one
    line.resize(static_cast<std::size_t>(plan.length / 2 + 1));
    line.resize(static_cast<std::size_t>(plan.length));
    for (std::int64_t k = plan.length / 2 + 1; k < plan.length; ++k) {
      line[static_cast<std::size_t>(k)] = std::conj(line[static_cast<std::size_t>(plan.length - k)]);
    }
  }
  line.resize(static_cast<std::size_t>(plan.length));
  std::vector<Complex> result = transform(line, plan.roots, 1);
  if (plan.inverse) {
    for (Complex& value : result) value /= static_cast<double>(plan.length);
  }
  result.resize(static_cast<std::size_t>(plan.out_length));
  return result;
}

template <typename T>
void run_dft(const DftPlan& plan, const AxisView& view, std::int64_t in_parts, const T* in, T* out) {
  parallel_for(view.outer * view.inner, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t outer = i / view.inner, inner = i % view.inner;
      std::vector<Complex> line(static_cast<std::size_t>(view.dim));
      for (std::int64_t k = 0; k < view.dim; ++k) {
        const T* from = in + ((outer * view.dim + k) * view.inner + inner) * in_parts;
        line[static_cast<std::size_t>(k)] = {static_cast<double>(from[0]),
                                             in_parts == 2 ? static_cast<double>(from[1]) : 0.0};
      }
      const std::vector<Complex> result = run_line(plan, std::move(line));
      for (std::int64_t k = 0; k < plan.out_length; ++k) {
        T* to = out + ((outer * plan.out_length + k) * view.inner + inner) * plan.parts;
        to[0] = static_cast<T>(result[static_cast<std::size_t>(k)].real());
        if (plan.parts == 2) to[1] = static_cast<T>(result[static_cast<std::size_t>(k)].imag());
      }
    }
  });
}

constexpr std::int64_t kLongest = std::int64_t{1} << 26;  // of one transform

Result<std::int64_t> number(const KernelContext& ctx, std::size_t i) {
  OF_ASSIGN(const std::vector<std::int64_t> values, to_int64s(ctx.in(i)));
  if (values.size() != 1) return ctx.invalid(fmt::format("input {} must be one number", i));
  return values[0];
}

Status dft(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array x = ctx.in(0);
  if (x.rank() < 2 || x.dim(-1) < 1 || x.dim(-1) > 2) return ctx.invalid("input must be [..., 1] or [..., 2]");
  std::int64_t given_axis = ctx.opset() >= 20 ? -2 : ctx.attr("axis", std::int64_t{1});
  if (ctx.opset() >= 20 && ctx.has(2)) {
    OF_ASSIGN(given_axis, number(ctx, 2));
  }
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, given_axis, x.rank()));
  if (static_cast<int>(axis) == x.rank() - 1) return ctx.invalid("axis is the one of real and imaginary parts");
  DftPlan plan;
  plan.inverse = ctx.attr("inverse", std::int64_t{0}) != 0;
  plan.onesided = ctx.attr("onesided", std::int64_t{0}) != 0;
  const bool to_real = plan.inverse && plan.onesided;
  plan.length = to_real ? 2 * (x.dims()[axis] - 1) : x.dims()[axis];
  if (ctx.has(1)) {
    OF_ASSIGN(plan.length, number(ctx, 1));
  }
  if (plan.length < 1 || plan.length > kLongest) return ctx.invalid("dft_length is out of range");
  plan.out_length = plan.onesided && !plan.inverse ? plan.length / 2 + 1 : plan.length;
  plan.parts = to_real ? 1 : 2;
  plan.roots = roots_of_unity(plan.length, plan.inverse ? 1.0 : -1.0);
  Dims dims = x.dims();
  dims[axis] = plan.out_length;
  dims.back() = plan.parts;
  AxisView view = axis_view(Dims(x.dims().begin(), x.dims().end() - 1), axis);
  if (view.dim > plan.length && to_real) plan.out_length = plan.length;
  Array& y = ctx.out(0, x.dtype(), std::move(dims));
  const bool done = visit_float(
      x.storage(), [&]<typename T>(Tag<T>) { run_dft(plan, view, x.dim(-1), x.data<T>(), y.mutable_data<T>()); });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

Status stft(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array x = ctx.in(0);
  const std::int64_t parts = x.rank() == 3 ? x.dim(2) : 1;
  if (x.rank() < 2 || x.rank() > 3 || parts < 1 || parts > 2)
    return ctx.invalid("signal must be [N, L, 1] or [N, L, 2]");
  OF_ASSIGN(const std::int64_t step, number(ctx, 1));
  std::vector<double> window;
  if (ctx.has(2)) {
    OF_ASSIGN(window, to_doubles(ctx.in(2)));
  }
  std::int64_t length = static_cast<std::int64_t>(window.size());
  if (ctx.has(3)) {
    OF_ASSIGN(length, number(ctx, 3));
  }
  if (window.empty()) window.assign(static_cast<std::size_t>(std::clamp<std::int64_t>(length, 0, kLongest)), 1.0);
  if (length < 1 || length > kLongest || step < 1 || length > x.dim(1) ||
      static_cast<std::int64_t>(window.size()) != length) {
    return ctx.invalid("frame_step, frame_length or window is out of range");
  }
  const bool onesided = ctx.attr("onesided", std::int64_t{1}) != 0 && parts == 1;
  DftPlan plan{length, false, onesided, onesided ? length / 2 + 1 : length, 2, roots_of_unity(length, -1.0)};
  const std::int64_t batches = x.dim(0), samples = x.dim(1), frames = (samples - length) / step + 1;
  Array& y = ctx.out(0, x.dtype(), {batches, frames, plan.out_length, 2});
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    parallel_for(batches * frames, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        std::vector<Complex> line(static_cast<std::size_t>(length));
        const T* from = x.data<T>() + (i / frames * samples + i % frames * step) * parts;
        for (std::size_t k = 0; k < line.size(); ++k, from += parts) {
          line[k] = Complex(static_cast<double>(from[0]), parts == 2 ? static_cast<double>(from[1]) : 0.0) * window[k];
        }
        const std::vector<Complex> result = run_line(plan, std::move(line));
        T* to = y.mutable_data<T>() + i * plan.out_length * 2;
        for (const Complex& value : result) {
          *to++ = static_cast<T>(value.real());
          *to++ = static_cast<T>(value.imag());
        }
      }
    });
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

Status mel_weight_matrix(KernelContext& ctx) {
  OF_TRY(ctx.need(5));
  std::vector<double> given;
  for (std::size_t i = 0; i < 5; ++i) {
    OF_ASSIGN(const std::vector<double> value, to_doubles(ctx.in(i)));
    if (value.size() != 1) return ctx.invalid("inputs must be single numbers");
    given.push_back(value[0]);
  }
  const double dft_length = given[1], rate = given[2];
  if (!(given[0] >= 1 && given[0] < 1e6 && dft_length >= 1 && dft_length < 1e7 && rate > 0))
    return ctx.invalid("inputs are out of range");
  const auto bins = static_cast<std::int64_t>(given[0]), rows = static_cast<std::int64_t>(dft_length) / 2 + 1;
  const auto mel = [](double hertz) { return 2595 * std::log10(1 + hertz / 700); };
  const double low = mel(given[3]), step = (mel(given[4]) - low) / static_cast<double>(bins + 2);
  std::vector<std::int64_t> edges;
  for (std::int64_t i = 0; i < bins + 2; ++i) {
    const double hertz = 700 * (std::pow(10, (static_cast<double>(i) * step + low) / 2595) - 1);
    edges.push_back(static_cast<std::int64_t>(std::floor((dft_length + 1) * hertz / rate)));
    if (edges.back() < 0 || edges.back() >= rows) return ctx.invalid("an edge lies outside the spectrum");
  }
  const auto dtype = static_cast<DType>(ctx.attr("output_datatype", std::int64_t{1}));
  Array& out = ctx.out(0, dtype, {rows, bins});
  const bool done = visit_numeric(out.storage(), [&]<typename T>(Tag<T>) {
    T* data = out.mutable_data<T>();
    std::fill_n(data, out.size(), T{0});
    for (std::int64_t i = 0; i < bins; ++i) {
      const auto* edge = edges.data() + i;
      const auto rise = static_cast<double>(edge[1] - edge[0]), fall = static_cast<double>(edge[2] - edge[1]);
      if (rise == 0) data[edge[1] * bins + i] = T{1};
      for (std::int64_t j = edge[0]; rise > 0 && j <= edge[1]; ++j)
        data[j * bins + i] = static_cast<T>(static_cast<double>(j - edge[0]) / rise);
      for (std::int64_t j = edge[1]; fall > 0 && j < edge[2]; ++j)
        data[j * bins + i] = static_cast<T>(static_cast<double>(edge[2] - j) / fall);
    }
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

}  // namespace

KernelRows signal_kernels() {
  static const KernelRow kRows[] = {{"DFT", 17, dft}, {"STFT", 17, stft}, {"MelWeightMatrix", 17, mel_weight_matrix}};
  return kRows;
}

}  // namespace onnxfold
