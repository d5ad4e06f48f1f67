// MaxRoiPool and RoiAlign: pooled features of boxes.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kLargestPool = 1 << 20;

struct Bin {
  std::int64_t begin, end;
};

// Pixels [begin, end) of output cell i along one axis of a box.
Bin max_roi_bin(std::int64_t i, std::int64_t start, std::int64_t length, std::int64_t pooled, std::int64_t size) {
  const double step = static_cast<double>(length) / static_cast<double>(pooled);
  const auto low = static_cast<std::int64_t>(std::floor(static_cast<double>(i) * step)) + start;
  const auto high = static_cast<std::int64_t>(std::ceil(static_cast<double>(i + 1) * step)) + start;
  return {std::clamp<std::int64_t>(low, 0, size), std::clamp<std::int64_t>(high, 0, size)};
}

template <typename T>
void max_roi(const Array& x, const double* roi, double scale, const Dims& pooled, T* y) {
  const std::int64_t height = x.dim(2), width = x.dim(3);
  const auto edge = [&](int i) { return static_cast<std::int64_t>(std::round(roi[i] * scale)); };
  const std::int64_t left = edge(1), top = edge(2);
  const std::int64_t wide = std::max<std::int64_t>(edge(3) - left + 1, 1),
                     tall = std::max<std::int64_t>(edge(4) - top + 1, 1);
  const T* image = x.data<T>() + static_cast<std::int64_t>(roi[0]) * x.dim(1) * height * width;
  for (std::int64_t c = 0; c < x.dim(1); ++c) {
    for (std::int64_t i = 0; i < pooled[0]; ++i) {
      const Bin rows = max_roi_bin(i, top, tall, pooled[0], height);
      for (std::int64_t j = 0; j < pooled[1]; ++j) {
        const Bin columns = max_roi_bin(j, left, wide, pooled[1], width);
        const bool empty = rows.begin >= rows.end || columns.begin >= columns.end;
        T best = empty ? T{0} : std::numeric_limits<T>::lowest();
        for (std::int64_t h = rows.begin; h < rows.end; ++h) {
          for (std::int64_t w = columns.begin; w < columns.end; ++w)
            best = std::max(best, image[(c * height + h) * width + w]);
        }
        *y++ = best;
      }
    }
  }
}

// A box corner of any size stays far from overflow once rounded.
bool sane(double value) { return std::abs(value) < 1e9; }

Status max_roi_pool(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array &x = ctx.in(0), &rois = ctx.in(1);
  const Dims pooled = ctx.node().attr_ints("pooled_shape").value_or(Dims{});
  if (x.rank() != 4 || rois.rank() != 2 || rois.dim(1) != 5 || pooled.size() != 2) {
    return ctx.invalid(fmt::format("needs X of rank 4, rois [n,5] and two pooled sizes, not {} and {}",
                                   dims_text(x.dims()), dims_text(rois.dims())));
  }
  for (const std::int64_t size : pooled) {
    if (size < 1 || size > kLargestPool) return ctx.invalid("pooled_shape is out of range");
  }
  OF_ASSIGN(const std::vector<double> boxes, to_doubles(rois));
  const double scale = ctx.attr("spatial_scale", 1.0F);
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    const bool ok = i % 5 == 0 ? boxes[i] >= 0 && boxes[i] < static_cast<double>(x.dim(0)) : sane(boxes[i] * scale);
    if (!ok) return ctx.invalid(fmt::format("box {} is out of range", i / 5));
  }
  Array& y = ctx.out(0, x.dtype(), {rois.dim(0), x.dim(1), pooled[0], pooled[1]});
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    for (std::int64_t r = 0; r < rois.dim(0); ++r) {
      max_roi<T>(x, boxes.data() + r * 5, scale, pooled, y.mutable_data<T>() + r * x.dim(1) * pooled[0] * pooled[1]);
    }
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

struct Align {
  std::int64_t height, width, sampling;
  double scale, shift, smallest;
  bool average;
};

// Corners and weights of a bilinear sample.
struct Sample {
  std::int64_t at[4];
  double weight[4];
};

Sample sample_at(double y, double x, std::int64_t height, std::int64_t width) {
  Sample s{};
  if (y < -1 || y > static_cast<double>(height) || x < -1 || x > static_cast<double>(width)) return s;
  y = std::max(y, 0.0);
  x = std::max(x, 0.0);
  const auto top = std::min(static_cast<std::int64_t>(y), height - 1),
             left = std::min(static_cast<std::int64_t>(x), width - 1);
  const std::int64_t bottom = std::min(top + 1, height - 1), right = std::min(left + 1, width - 1);
  const double down = top == height - 1 ? 0 : y - static_cast<double>(top);
  const double across = left == width - 1 ? 0 : x - static_cast<double>(left);
  return {{top * width + left, top * width + right, bottom * width + left, bottom * width + right},
          {(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across}};
}

// Samples of one box, output cell by output cell; every channel uses the same ones.
std::vector<std::vector<Sample>> box_samples(const Align& a, const double* roi, std::int64_t height,
                                             std::int64_t width) {
  const double left = roi[0] * a.scale - a.shift, top = roi[1] * a.scale - a.shift;
  const double wide = std::max(roi[2] * a.scale - a.shift - left, a.smallest);
  const double tall = std::max(roi[3] * a.scale - a.shift - top, a.smallest);
  const double step_y = tall / static_cast<double>(a.height), step_x = wide / static_cast<double>(a.width);
  const auto rows = a.sampling > 0 ? a.sampling : static_cast<std::int64_t>(std::ceil(step_y));
  const auto columns = a.sampling > 0 ? a.sampling : static_cast<std::int64_t>(std::ceil(step_x));
  std::vector<std::vector<Sample>> cells;
  for (std::int64_t i = 0; i < a.height; ++i) {
    for (std::int64_t j = 0; j < a.width; ++j) {
      std::vector<Sample>& cell = cells.emplace_back();
      for (std::int64_t p = 0; p < rows; ++p) {
        const double y =
            top + (static_cast<double>(i) + (static_cast<double>(p) + 0.5) / static_cast<double>(rows)) * step_y;
        for (std::int64_t q = 0; q < columns; ++q) {
          const double x =
              left + (static_cast<double>(j) + (static_cast<double>(q) + 0.5) / static_cast<double>(columns)) * step_x;
          cell.push_back(sample_at(y, x, height, width));
        }
      }
    }
  }
  return cells;
}

template <typename T>
T pool_cell(const std::vector<Sample>& cell, const T* plane, bool average) {
  double result = 0;
  bool first = true;
  for (const Sample& s : cell) {
    double sum = 0, largest = -std::numeric_limits<double>::infinity();
    for (int i = 0; i < 4; ++i) {
      const double part = s.weight[i] * static_cast<double>(plane[s.at[i]]);
      sum += part;
      largest = std::max(largest, part);
    }
    // The operator's maximum is over the weighted corners, not over interpolated values.
    result = average ? result + sum : first ? largest : std::max(result, largest);
    first = false;
  }
  return static_cast<T>(average && !cell.empty() ? result / static_cast<double>(cell.size()) : result);
}

Result<Align> read_align(const KernelContext& ctx) {
  const std::string mode = ctx.attr("mode", "avg");
  const std::string fallback = ctx.opset() < 16 ? "output_half_pixel" : "half_pixel";
  const bool half = ctx.attr("coordinate_transformation_mode", fallback.c_str()) == "half_pixel";
  const Align a{ctx.attr("output_height", std::int64_t{1}),
                ctx.attr("output_width", std::int64_t{1}),
                ctx.attr("sampling_ratio", std::int64_t{0}),
                ctx.attr("spatial_scale", 1.0F),
                half ? 0.5 : 0.0,
                half ? 0.0 : 1.0,
                mode == "avg"};
  if (mode != "avg" && mode != "max") return ctx.invalid(fmt::format("mode \"{}\" is unknown", mode));
  if (a.height < 1 || a.width < 1 || a.height > kLargestPool || a.width > kLargestPool || a.sampling < 0 ||
      a.sampling > 1000) {
    return ctx.invalid("an output size or sampling_ratio is out of range");
  }
  return a;
}

Status roi_align(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  const Array &x = ctx.in(0), &rois = ctx.in(1);
  if (x.rank() != 4 || rois.rank() != 2 || rois.dim(1) != 4 || ctx.in(2).dims() != Dims{rois.dim(0)}) {
    return ctx.invalid(fmt::format("X {}, rois {} and batch_indices {} do not fit together", dims_text(x.dims()),
                                   dims_text(rois.dims()), dims_text(ctx.in(2).dims())));
  }
  OF_ASSIGN(const Align a, read_align(ctx));
  OF_ASSIGN(const std::vector<double> boxes, to_doubles(rois));
  OF_ASSIGN(const std::vector<std::int64_t> images, to_int64s(ctx.in(2)));
  for (const std::int64_t image : images) {
    if (image < 0 || image >= x.dim(0)) return ctx.invalid(fmt::format("batch index {} is out of range", image));
  }
  for (const double corner : boxes) {
    if (!sane(corner * a.scale)) return ctx.invalid("a box is out of range");
  }
  const std::int64_t channels = x.dim(1), plane = x.dim(2) * x.dim(3), cells = a.height * a.width;
  if (plane == 0 && rois.dim(0) != 0) return ctx.invalid("X has no pixels");
  Array& y = ctx.out(0, x.dtype(), {rois.dim(0), channels, a.height, a.width});
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    T* to = y.mutable_data<T>();
    parallel_for(rois.dim(0), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const auto samples = box_samples(a, boxes.data() + r * 4, x.dim(2), x.dim(3));
        const T* image = x.data<T>() + images[static_cast<std::size_t>(r)] * channels * plane;
        for (std::int64_t i = 0; i < channels * cells; ++i) {
          to[r * channels * cells + i] =
              pool_cell(samples[static_cast<std::size_t>(i % cells)], image + i / cells * plane, a.average);
        }
      }
    });
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

constexpr KernelRow kRows[] = {{"MaxRoiPool", 1, max_roi_pool}, {"RoiAlign", 10, roi_align}};

}  // namespace

KernelRows roi_kernels() { return kRows; }

}  // namespace onnxfold
