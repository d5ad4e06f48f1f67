// GridSample: values of X at the positions a grid names, in two or three dimensions.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

enum class Interpolation { kNearest, kLinear, kCubic };
enum class Padding { kZeros, kBorder, kReflection };

struct Sampler {
  Interpolation interpolation;
  Padding padding;
  bool align_corners;

  double unnormalize(double x, std::int64_t size) const {
    const auto n = static_cast<double>(size);
    return align_corners ? (x + 1) / 2 * (n - 1) : ((x + 1) * n - 1) / 2;
  }

  // Mirrors x into [low, high], the span of pixel centres or of pixel edges.
  double reflect(double x, std::int64_t size) const {
    const double low = align_corners ? 0 : -0.5, high = low + static_cast<double>(size) - (align_corners ? 1 : 0);
    const double range = high - low;
    if (range <= 0) return 0;
    double distance = std::fmod(std::abs(x - low), 2 * range);
    if (distance > range) distance = 2 * range - distance;
    return low + distance;
  }

  // The pixel to read for an integer position; -1 for none.
  std::int64_t pixel(std::int64_t i, std::int64_t size) const {
    if (i >= 0 && i < size) return i;
    if (padding == Padding::kZeros) return -1;
    if (padding == Padding::kReflection) i = static_cast<std::int64_t>(reflect(static_cast<double>(i), size));
    return std::clamp<std::int64_t>(i, 0, size - 1);
  }

  // Padding applies to the coordinate, then to each pixel read.
  double place(double x, std::int64_t size) const {
    x = unnormalize(x, size);
    const auto edge = static_cast<double>(size);
    if (padding == Padding::kBorder) return std::clamp(x, 0.0, edge - 1);
    if (padding == Padding::kReflection && interpolation != Interpolation::kCubic)
      return std::clamp(reflect(x, size), -0.5, edge - 0.5);
    return x;
  }
};

struct Taps {
  int count = 0;
  std::int64_t at[4];
  double weight[4];
};

Taps taps_for(const Sampler& s, double coordinate, std::int64_t size) {
  Taps taps;
  const auto add = [&](std::int64_t i, double weight) {
    taps.at[taps.count] = s.pixel(i, size);
    taps.weight[taps.count++] = weight;
  };
  double x = s.interpolation == Interpolation::kCubic ? s.unnormalize(coordinate, size) : s.place(coordinate, size);
  // Far away is as good as anywhere outside; NaN counts as outside.
  const double far = 4e15;
  if (!(std::abs(x) < far)) x = std::isnan(x) ? (s.padding == Padding::kZeros ? -10 : 0) : std::copysign(far, x);
  const double base = std::floor(x), t = x - base;
  const auto first = static_cast<std::int64_t>(base);
  if (s.interpolation == Interpolation::kNearest) {
    add(static_cast<std::int64_t>(std::nearbyint(x)), 1);
  } else if (s.interpolation == Interpolation::kLinear) {
    add(first, 1 - t);
    add(first + 1, t);
  } else {
    constexpr double a = -0.75;
    const auto near = [](double d) { return ((a + 2) * d - (a + 3)) * d * d + 1; };
    const auto wide = [](double d) { return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a; };
    add(first - 1, wide(t + 1));
    add(first, near(t));
    add(first + 1, near(1 - t));
    add(first + 2, wide(2 - t));
  }
  return taps;
}

template <typename T>
T sample(const Taps (&taps)[3], const Dims& size, const T* plane) {
  double sum = 0;
  for (int d = 0; d < taps[0].count; ++d) {
    for (int h = 0; h < taps[1].count; ++h) {
      for (int w = 0; w < taps[2].count; ++w) {
        const std::int64_t z = taps[0].at[d], y = taps[1].at[h], x = taps[2].at[w];
        if (z < 0 || y < 0 || x < 0) continue;
        sum += taps[0].weight[d] * taps[1].weight[h] * taps[2].weight[w] *
               static_cast<double>(plane[(z * size[1] + y) * size[2] + x]);
      }
    }
  }
  return static_cast<T>(sum);
}

Result<Sampler> read_sampler(const KernelContext& ctx) {
  Sampler s{};
  const std::string mode = ctx.attr("mode", ctx.opset() < 20 ? "bilinear" : "linear");
  const std::string padding = ctx.attr("padding_mode", "zeros");
  if (mode == "nearest") {
    s.interpolation = Interpolation::kNearest;
  } else if (mode == "bilinear" || mode == "linear") {
    s.interpolation = Interpolation::kLinear;
  } else if (mode == "bicubic" || mode == "cubic") {
    s.interpolation = Interpolation::kCubic;
  } else {
    return ctx.invalid(fmt::format("mode \"{}\" is unknown", mode));
  }
  if (padding != "zeros" && padding != "border" && padding != "reflection") {
    return ctx.invalid(fmt::format("padding_mode \"{}\" is unknown", padding));
  }
  s.padding = padding == "zeros" ? Padding::kZeros : padding == "border" ? Padding::kBorder : Padding::kReflection;
  s.align_corners = ctx.attr("align_corners", std::int64_t{0}) != 0;
  return s;
}

Status grid_sample(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array &x = ctx.in(0), &grid = ctx.in(1);
  const int axes = x.rank() - 2;
  if (axes != 2 && axes != 3) return ctx.unsupported(fmt::format("X of rank {}; 4 and 5 are supported", x.rank()));
  if (grid.rank() != x.rank() || grid.dim(-1) != axes || grid.dim(0) != x.dim(0)) {
    return ctx.invalid(
        fmt::format("X {} and grid {} do not fit together", dims_text(x.dims()), dims_text(grid.dims())));
  }
  OF_ASSIGN(const Sampler sampler, read_sampler(ctx));
  OF_ASSIGN(const std::vector<double> positions, to_doubles(grid));
  Dims size(x.dims().begin() + 2, x.dims().end());
  size.insert(size.begin(), static_cast<std::size_t>(3 - axes), 1);
  Dims dims{x.dim(0), x.dim(1)};
  dims.insert(dims.end(), grid.dims().begin() + 1, grid.dims().end() - 1);
  Array& y = ctx.out(0, x.dtype(), dims);
  if (y.size() == 0) return {};
  const std::int64_t plane = element_count(size), channels = x.dim(1), points = y.size() / (x.dim(0) * channels);
  if (plane == 0) return ctx.invalid("X has no pixels");
  const bool done = visit_real(x.storage(), [&]<typename T>(Tag<T>) {
    parallel_for(x.dim(0) * points, 256, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t n = i / points;
        Taps taps[3];
        taps[0].count = 1, taps[0].at[0] = 0, taps[0].weight[0] = 1;
        for (int axis = 0; axis < axes; ++axis) {  // the grid names x first
          taps[2 - axis] = taps_for(sampler, positions[static_cast<std::size_t>(i * axes + axis)],
                                    size[static_cast<std::size_t>(2 - axis)]);
        }
        for (std::int64_t c = 0; c < channels; ++c) {
          y.mutable_data<T>()[(n * channels + c) * points + i % points] =
              sample(taps, size, x.data<T>() + (n * channels + c) * plane);
        }
      }
    });
  });
  return done ? Status{} : ctx.unsupported("element type is not a number");
}

constexpr KernelRow kRows[] = {{"GridSample", 16, grid_sample}};

}  // namespace

KernelRows grid_sample_kernels() { return kRows; }

}  // namespace onnxfold
