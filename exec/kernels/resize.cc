// Resize and Upsample: one axis after the other, each output position a weighted sum of a few input positions.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

struct Mode {
  std::string interpolation, coordinates, nearest;
  double cubic_a = -0.75, extrapolation = 0;
  bool exclude_outside = false, antialias = false;
};

struct AxisPlan {
  std::int64_t in, out;
  double scale, roi_begin = 0, roi_end = 1;
};

// Input coordinate of output position x.
double source(const Mode& mode, const AxisPlan& axis, double x) {
  const auto in = static_cast<double>(axis.in), out = static_cast<double>(axis.out);
  // The resized length before it was rounded down; sizes give it exactly.
  const double length = std::abs(axis.scale * in - out) < 1e-6 ? out : axis.scale * in;
  if (mode.coordinates == "asymmetric") return x / axis.scale;
  if (mode.coordinates == "align_corners") return length == 1 ? 0 : x * (in - 1) / (length - 1);
  if (mode.coordinates == "pytorch_half_pixel") return out > 1 ? (x + 0.5) / axis.scale - 0.5 : 0;
  if (mode.coordinates == "tf_half_pixel_for_nn") return (x + 0.5) / axis.scale;
  if (mode.coordinates == "tf_crop_and_resize") {
    if (length == 1) return 0.5 * (axis.roi_begin + axis.roi_end) * (in - 1);
    return axis.roi_begin * (in - 1) + x * (axis.roi_end - axis.roi_begin) * (in - 1) / (length - 1);
  }
  const double shift = mode.coordinates == "half_pixel_symmetric" ? in / 2 * (1 - out / length) : 0;
  return shift + (x + 0.5) / axis.scale - 0.5;
}

double nearest_of(const Mode& mode, double x) {
  if (mode.nearest == "floor") return std::floor(x);
  if (mode.nearest == "ceil") return std::ceil(x);
  if (mode.nearest == "round_prefer_ceil") return std::floor(x + 0.5);
  if (mode.nearest == "simple") return x;
  return std::ceil(x - 0.5);
}

double kernel_weight(const Mode& mode, double distance) {
  const double d = std::abs(distance), a = mode.cubic_a;
  if (mode.interpolation == "linear") return std::max(0.0, 1 - d);
  if (d <= 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  if (d < 2) return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
  return 0;
}

struct Taps {
  std::vector<std::int64_t> at;
  std::vector<double> weight;
};

Taps taps_at(const Mode& mode, const AxisPlan& axis, double x) {
  const double last = static_cast<double>(axis.in - 1);
  if (mode.interpolation == "nearest") {
    return {{static_cast<std::int64_t>(std::clamp(nearest_of(mode, x), 0.0, last))}, {1}};
  }
  const double support = mode.interpolation == "linear" ? 1 : 2;
  // Shrinking with antialias widens the kernel by the factor of shrinking.
  const double shrink = mode.antialias ? std::min(axis.scale, 1.0) : 1;
  const double reach = support / shrink, clipped = std::clamp(x, -reach - 2, last + reach + 2);
  const auto first = static_cast<std::int64_t>(std::ceil(clipped - reach)),
             end = static_cast<std::int64_t>(std::floor(clipped + reach));
  Taps taps;
  double total = 0;
  for (std::int64_t i = first; i <= end; ++i) {
    const double weight = kernel_weight(mode, (clipped - static_cast<double>(i)) * shrink);
    const bool outside = i < 0 || i >= axis.in;
    if (weight == 0 || (outside && mode.exclude_outside)) continue;
    taps.at.push_back(std::clamp<std::int64_t>(i, 0, axis.in - 1));
    taps.weight.push_back(weight);
    total += weight;
  }
  const bool normalize = (mode.exclude_outside || mode.antialias) && total != 0;
  for (double& weight : taps.weight) weight /= normalize ? total : 1;
  return taps;
}

// `from` with one axis resized. Nearest copies, so it serves every element type.
template <typename T>
void resize_axis(const AxisView& view, const std::vector<Taps>& taps, const T* from, T* to) {
  const auto out = static_cast<std::int64_t>(taps.size()), inner = view.inner;
  parallel_for(view.outer * out, std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, inner)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   const Taps& t = taps[static_cast<std::size_t>(i % out)];
                   const T* source_rows = from + i / out * view.dim * inner;
                   T* row = to + i * inner;
                   if (t.at.size() == 1 && t.weight[0] == 1) {
                     std::copy_n(source_rows + t.at[0] * inner, inner, row);
                     continue;
                   }
                   for (std::int64_t j = 0; j < inner; ++j) {
                     double sum = 0;
                     for (std::size_t k = 0; k < t.at.size(); ++k)
                       sum += t.weight[k] * static_cast<double>(source_rows[t.at[k] * inner + j]);
                     if constexpr (std::is_floating_point_v<T>) {
                       row[j] = static_cast<T>(sum);
                     } else {
                       row[j] = static_cast<T>(std::clamp(std::nearbyint(sum),
                                                          static_cast<double>(std::numeric_limits<T>::lowest()),
                                                          static_cast<double>(std::numeric_limits<T>::max())));
                     }
                   }
                 }
               });
}

template <typename T, typename Work>
std::vector<Work> resize_all(const Mode& mode, const Array& x, const std::vector<AxisPlan>& axes,
                             std::vector<bool>* outside) {
  std::vector<Work> now(x.data<T>(), x.data<T>() + x.size());
  Dims dims = x.dims();
  std::vector<std::vector<bool>> missed(axes.size());
  for (std::size_t a = 0; a < axes.size(); ++a) {
    std::vector<Taps> taps;
    bool same = axes[a].in == axes[a].out;
    for (std::int64_t i = 0; i < axes[a].out; ++i) {
      const double at = source(mode, axes[a], static_cast<double>(i));
      taps.push_back(taps_at(mode, axes[a], at));
      missed[a].push_back(at < 0 || at > static_cast<double>(axes[a].in - 1));
      same = same && taps.back().at.size() == 1 && taps.back().at[0] == i && taps.back().weight[0] == 1;
    }
    if (same) continue;
    const AxisView view = axis_view(dims, a);
    dims[a] = axes[a].out;
    std::vector<Work> next(static_cast<std::size_t>(element_count(dims)));
    resize_axis(view, taps, now.data(), next.data());
    now = std::move(next);
  }
  if (outside) {
    for (std::size_t i = 0; i < now.size(); ++i) {
      std::size_t rest = i;
      bool any = false;
      for (std::size_t a = axes.size(); a-- > 0; rest /= static_cast<std::size_t>(dims[a]))
        any = any || missed[a][rest % static_cast<std::size_t>(dims[a])];
      outside->push_back(any);
    }
  }
  return now;
}

// Fills `y`; elements interpolated from outside the input get the extrapolation value with tf_crop_and_resize.
template <typename T>
void run(const Mode& mode, const Array& x, const std::vector<AxisPlan>& axes, Array& y) {
  const bool crop = mode.coordinates == "tf_crop_and_resize";
  std::vector<bool> outside;
  T* to = y.mutable_data<T>();
  if (mode.interpolation == "nearest" || std::is_floating_point_v<T>) {
    const auto result = resize_all<T, T>(mode, x, axes, crop ? &outside : nullptr);
    std::copy(result.begin(), result.end(), to);
  } else {
    const auto result = resize_all<T, double>(mode, x, axes, crop ? &outside : nullptr);
    for (std::size_t i = 0; i < result.size(); ++i) to[i] = static_cast<T>(result[i]);
  }
  for (std::size_t i = 0; i < outside.size(); ++i) {
    if (outside[i]) to[i] = static_cast<T>(mode.extrapolation);
  }
}

bool one_of(const std::string& word, std::initializer_list<const char*> words) {
  return std::any_of(words.begin(), words.end(), [&](const char* w) { return word == w; });
}

Result<Mode> read_mode(const KernelContext& ctx) {
  Mode mode;
  mode.interpolation = ctx.attr("mode", "nearest");
  if (one_of(mode.interpolation, {"bilinear", "trilinear"})) mode.interpolation = "linear";
  const bool old = ctx.node().op_type() == "Upsample" || ctx.opset() < 11;
  mode.coordinates = old ? "asymmetric" : ctx.attr("coordinate_transformation_mode", "half_pixel");
  mode.nearest = old ? "floor" : ctx.attr("nearest_mode", "round_prefer_floor");
  mode.cubic_a = ctx.attr("cubic_coeff_a", -0.75F);
  mode.extrapolation = ctx.attr("extrapolation_value", 0.0F);
  mode.exclude_outside = ctx.attr("exclude_outside", std::int64_t{0}) != 0;
  mode.antialias = ctx.attr("antialias", std::int64_t{0}) != 0;
  if (!one_of(mode.interpolation, {"nearest", "linear", "cubic"}))
    return ctx.invalid(fmt::format("mode \"{}\" is unknown", mode.interpolation));
  if (!one_of(mode.nearest, {"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"})) {
    return ctx.invalid(fmt::format("nearest_mode \"{}\" is unknown", mode.nearest));
  }
  if (!one_of(mode.coordinates, {"asymmetric", "align_corners", "half_pixel", "pytorch_half_pixel",
                                 "tf_half_pixel_for_nn", "tf_crop_and_resize", "half_pixel_symmetric"})) {
    return ctx.invalid(fmt::format("coordinate_transformation_mode \"{}\" is unknown", mode.coordinates));
  }
  return mode;
}

// The axes that scales, sizes and roi speak of, in their order.
Result<std::vector<std::size_t>> listed_axes(const KernelContext& ctx) {
  const int rank = ctx.in(0).rank();
  std::vector<std::size_t> axes;
  if (const auto given = ctx.node().attr_ints("axes"); given && !given->empty()) {
    for (const std::int64_t axis : *given) {
      OF_ASSIGN(const std::size_t at, resolve_axis(ctx, axis, rank));
      axes.push_back(at);
    }
    return axes;
  }
  for (int i = 0; i < rank; ++i) axes.push_back(static_cast<std::size_t>(i));
  return axes;
}

Status apply_scale(const KernelContext& ctx, AxisPlan& axis, double scale) {
  const double out = std::floor(static_cast<double>(axis.in) * scale);
  if (!(scale > 0) || !(out < 4e9)) return ctx.invalid(fmt::format("scale {} is out of range", scale));
  axis.scale = scale;
  axis.out = static_cast<std::int64_t>(out);
  return {};
}

Status apply_sizes(const KernelContext& ctx, const std::vector<std::size_t>& listed, std::vector<std::int64_t> sizes,
                   std::vector<AxisPlan>& axes) {
  if (sizes.size() != listed.size()) return ctx.invalid("sizes does not fit the axes");
  const std::string policy = ctx.attr("keep_aspect_ratio_policy", "stretch");
  double common = policy == "not_larger" ? HUGE_VAL : 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] < 0 || sizes[i] > (std::int64_t{1} << 32))
      return ctx.invalid(fmt::format("size {} is out of range", sizes[i]));
    const double ratio = static_cast<double>(sizes[i]) / static_cast<double>(axes[listed[i]].in);
    common = policy == "not_larger" ? std::min(common, ratio) : std::max(common, ratio);
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    AxisPlan& axis = axes[listed[i]];
    axis.scale = policy == "stretch" ? static_cast<double>(sizes[i]) / static_cast<double>(axis.in) : common;
    axis.out = policy == "stretch" ? sizes[i]
                                   : static_cast<std::int64_t>(std::floor(common * static_cast<double>(axis.in) + 0.5));
  }
  return {};
}

Result<std::vector<double>> given_scales(const KernelContext& ctx) {
  std::vector<double> scales;
  if (ctx.node().op_type() == "Upsample" && ctx.opset() < 9) {
    for (const float s : ctx.node().attr_floats("scales").value_or(std::vector<float>{})) scales.push_back(s);
    if (scales.empty() && ctx.in(0).rank() == 4)
      scales = {1, 1, ctx.attr("height_scale", 1.0F), ctx.attr("width_scale", 1.0F)};
    return scales;
  }
  const std::size_t input = ctx.node().op_type() == "Upsample" || ctx.opset() < 11 ? 1 : 2;
  if (!ctx.has(input)) return scales;
  return to_doubles(ctx.in(input));
}

Status plan_axes(const KernelContext& ctx, const Mode& mode, std::vector<AxisPlan>& axes) {
  OF_ASSIGN(const std::vector<std::size_t> listed, listed_axes(ctx));
  OF_ASSIGN(const std::vector<double> scales, given_scales(ctx));
  if (!scales.empty()) {
    if (scales.size() != listed.size()) return ctx.invalid("scales does not fit the axes");
    for (std::size_t i = 0; i < listed.size(); ++i) OF_TRY(apply_scale(ctx, axes[listed[i]], scales[i]));
  } else {
    if (!ctx.has(3)) return ctx.invalid("neither scales nor sizes are given");
    OF_ASSIGN(std::vector<std::int64_t> sizes, to_int64s(ctx.in(3)));
    OF_TRY(apply_sizes(ctx, listed, std::move(sizes), axes));
  }
  if (mode.coordinates != "tf_crop_and_resize") return {};
  if (!ctx.has(1)) return ctx.invalid("tf_crop_and_resize needs roi");
  OF_ASSIGN(const std::vector<double> roi, to_doubles(ctx.in(1)));
  if (roi.size() != 2 * listed.size()) return ctx.invalid("roi does not fit the axes");
  for (std::size_t i = 0; i < listed.size(); ++i) {
    axes[listed[i]].roi_begin = roi[i];
    axes[listed[i]].roi_end = roi[i + listed.size()];
    if (!(std::abs(roi[i]) < 1e6) || !(std::abs(roi[i + listed.size()]) < 1e6))
      return ctx.invalid("roi is out of range");
  }
  return {};
}

Status resize(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array& x = ctx.in(0);
  OF_ASSIGN(const Mode mode, read_mode(ctx));
  std::vector<AxisPlan> axes;
  for (const std::int64_t dim : x.dims()) axes.push_back({dim, dim, 1});
  OF_TRY(plan_axes(ctx, mode, axes));
  Dims dims;
  for (const AxisPlan& axis : axes) dims.push_back(axis.out);
  if (x.size() == 0 && element_count(dims) != 0) return ctx.invalid("an empty input cannot grow");
  Array& y = ctx.out(0, x.dtype(), dims);
  if (y.size() == 0) return {};
  const bool done = visit_numeric(x.storage(), [&]<typename T>(Tag<T>) { run<T>(mode, x, axes, y); });
  return done ? Status{} : ctx.unsupported("element type is not a number");
}

constexpr KernelRow kRows[] = {{"Resize", 10, resize}, {"Upsample", 1, resize}};

}  // namespace

KernelRows resize_kernels() { return kRows; }

}  // namespace onnxfold
