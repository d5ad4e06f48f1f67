// QuantizeLinear, DequantizeLinear (per tensor, per axis, blocked), DynamicQuantizeLinear.
#include <algorithm>
#include <cmath>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/parallel.h"
#include "ir/numeric.h"

namespace onnxfold {
namespace {

// Which scale serves element (outer, i, inner) of the data around the quantized axis.
struct ScaleLayout {
  AxisView view;
  std::int64_t block = 0;   // elements along the axis that share a scale; 0: one scale for everything
  std::int64_t blocks = 1;  // scales along the axis
  bool along_all = false;   // blocked: the scale has every other axis as well

  std::int64_t index(std::int64_t outer, std::int64_t i, std::int64_t inner) const {
    if (block == 0) return 0;
    const std::int64_t b = i / block;
    return along_all ? (outer * blocks + b) * view.inner + inner : b;
  }
};

Result<ScaleLayout> scale_layout(const KernelContext& ctx) {
  const Array& x = ctx.in(0);
  const Array& scale = ctx.in(1);
  ScaleLayout layout;
  if (scale.size() == 1 && scale.rank() <= 1) {
    layout.view = {1, x.size(), 1};
    return layout;
  }
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{1}), x.rank()));
  layout.view = axis_view(x.dims(), axis);
  const std::int64_t given = ctx.attr("block_size", std::int64_t{0});
  if (scale.rank() == 1 && (given == 0 || x.rank() != 1)) {
    if (scale.size() != layout.view.dim) return ctx.invalid("one scale per element of the axis is needed");
    layout.block = 1;
    layout.blocks = layout.view.dim;
    return layout;
  }
  Dims others = x.dims();
  if (scale.rank() != x.rank()) return ctx.invalid("scale and input differ in rank");
  others[axis] = layout.blocks = scale.dims()[axis];
  if (others != scale.dims() || layout.blocks < 1) return ctx.invalid("scale does not fit the input");
  layout.block = given > 0 ? given : (layout.view.dim + layout.blocks - 1) / layout.blocks;
  if ((layout.view.dim + layout.block - 1) / layout.block != layout.blocks)
    return ctx.invalid("block_size does not fit the scale");
  layout.along_all = true;
  return layout;
}

// Calls fn(begin, end, scale_index, step) on runs of elements [begin, end) whose scales start at scale_index and move
// by step (0 or 1) per element.
template <typename F>
void for_scaled_runs(const ScaleLayout& layout, F&& fn) {
  const auto& [outer, dim, inner] = layout.view;
  if (layout.block == 0) {
    parallel_for(dim, kElementGrain, [&](std::int64_t begin, std::int64_t end) { fn(begin, end, 0, 0); });
    return;
  }
  const bool flat = inner == 1;  // runs along the axis are then contiguous
  const std::int64_t run = flat ? layout.block : inner, per_outer = flat ? layout.blocks : dim;
  const std::int64_t grain = std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, run));
  parallel_for(outer * per_outer, grain, [&, dim = dim, inner = inner](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t o = r / per_outer, i = flat ? r % per_outer * layout.block : r % per_outer;
      const std::int64_t start = (o * dim + i) * inner;
      const std::int64_t length = flat ? std::min(layout.block, dim - i) : inner;
      fn(start, start + length, layout.index(o, i, 0), !flat && layout.along_all ? 1 : 0);
    }
  });
}

struct IntegerRange {
  double low, high;
};

IntegerRange range_of(DType dtype) {
  const int bits = bit_width(dtype);
  if (is_signed(dtype)) return {-std::ldexp(1.0, bits - 1), std::ldexp(1.0, bits - 1) - 1};
  return {0.0, std::ldexp(1.0, bits) - 1};
}

Status check_zero_point(const KernelContext& ctx) {
  if (ctx.has(2) && ctx.in(2).size() != ctx.in(1).size()) return ctx.invalid("zero point and scale differ in shape");
  return {};
}

Result<DType> quantized_type(const KernelContext& ctx) {
  const auto given = static_cast<DType>(ctx.attr("output_dtype", std::int64_t{0}));
  if (ctx.has(2)) {
    if (given != DType::kUndefined && given != ctx.in(2).dtype())
      return ctx.invalid("output_dtype is not the type of the zero point");
    return ctx.in(2).dtype();
  }
  return given == DType::kUndefined ? DType::kUint8 : given;
}

// The division happens in float in float32 mode, as the standard's reference does, so that ties fall the same way.
template <typename T>
double divided(T x, double scale, DType precision) {
  if (precision == DType::kFloat16 || precision == DType::kBFloat16)
    return round_to(precision, static_cast<double>(x) / scale);
  return static_cast<double>(static_cast<T>(static_cast<double>(x) / scale));
}

template <typename T, typename Q>
void quantize_typed(const Array& x, const std::vector<double>& scales, const std::vector<double>& zeros,
                    const ScaleLayout& layout, DType arithmetic, bool saturate, Array& y) {
  const T* in = x.data<T>();
  Q* out = y.mutable_data<Q>();
  const DType to = y.dtype();
  const IntegerRange range = is_float(to) ? IntegerRange{0, 0} : range_of(to);
  for_scaled_runs(layout, [&](std::int64_t begin, std::int64_t end, std::int64_t s, std::int64_t step) {
    for (std::int64_t i = begin; i < end; ++i, s += step) {
      const auto at = static_cast<std::size_t>(s);
      const double value = divided(in[i], scales[at], arithmetic);
      const double zero = zeros.empty() ? 0.0 : zeros[at];
      if constexpr (std::is_floating_point_v<Q>) {
        const auto narrow = static_cast<float>(value + zero);
        out[i] = static_cast<Q>(to == DType::kFloat4E2M1
                                    ? static_cast<float>(round_to(to, static_cast<double>(narrow)))
                                    : small_float_to_float(to, float_to_small_float(to, narrow, saturate)));
      } else {
        const double whole = std::nearbyint(value) + zero;
        out[i] = static_cast<Q>(whole != whole ? 0.0 : std::clamp(whole, range.low, range.high));
      }
    }
  });
}

Status quantize_linear(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  OF_TRY(check_zero_point(ctx));
  OF_ASSIGN(const ScaleLayout layout, scale_layout(ctx));
  OF_ASSIGN(const DType to, quantized_type(ctx));
  OF_ASSIGN(const std::vector<double> scales, to_doubles(ctx.in(1)));
  std::vector<double> zeros;
  if (ctx.has(2)) {
    OF_ASSIGN(zeros, to_doubles(ctx.in(2)));
  }
  const auto given = static_cast<DType>(ctx.attr("precision", std::int64_t{0}));
  const DType arithmetic = given != DType::kUndefined ? given : ctx.in(1).dtype();
  const bool saturate = ctx.attr("saturate", std::int64_t{1}) != 0;
  const Array x = ctx.in(0);
  Array& y = ctx.out(0, to, x.dims());
  bool done = false;
  visit_numeric(x.storage(), [&]<typename T>(Tag<T>) {
    if constexpr (std::is_floating_point_v<T> || std::is_same_v<T, std::int32_t>) {
      using Value = std::conditional_t<std::is_floating_point_v<T>, T, double>;
      Array values = x;
      if constexpr (std::is_same_v<T, std::int32_t>) {
        values = Array(DType::kFloat64, x.dims(), Precision::kFloat64);
        std::copy_n(x.data<T>(), x.size(), values.template mutable_data<double>());
      }
      done = visit_numeric(y.storage(), [&]<typename Q>(Tag<Q>) {
        quantize_typed<Value, Q>(values, scales, zeros, layout, arithmetic, saturate, y);
      });
    }
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

Status dequantize_linear(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  OF_TRY(check_zero_point(ctx));
  OF_ASSIGN(const ScaleLayout layout, scale_layout(ctx));
  OF_ASSIGN(const std::vector<double> scales, to_doubles(ctx.in(1)));
  std::vector<double> zeros(scales.size(), 0.0);
  if (ctx.has(2)) {
    OF_ASSIGN(zeros, to_doubles(ctx.in(2)));
  }
  const auto given = static_cast<DType>(ctx.attr("output_dtype", std::int64_t{0}));
  const DType to = given != DType::kUndefined                ? given
                   : ctx.in(1).dtype() == DType::kFloat8E8M0 ? DType::kFloat32
                                                             : ctx.in(1).dtype();
  const Array x = ctx.in(0);
  Array& y = ctx.out(0, to, x.dims());
  bool done = false;
  visit_numeric(x.storage(), [&]<typename Q>(Tag<Q>) {
    done = visit_float(y.storage(), [&]<typename T>(Tag<T>) {
      const Q* in = x.data<Q>();
      T* out = y.mutable_data<T>();
      for_scaled_runs(layout, [&](std::int64_t begin, std::int64_t end, std::int64_t s, std::int64_t step) {
        for (std::int64_t i = begin; i < end; ++i, s += step) {
          const auto at = static_cast<std::size_t>(s);
          out[i] = static_cast<T>((static_cast<double>(in[i]) - zeros[at]) * scales[at]);
        }
      });
    });
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

Status dynamic_quantize_linear(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array x = ctx.in(0);
  Array& y = ctx.out(0, DType::kUint8, x.dims());
  Array& scale = ctx.out(1, DType::kFloat32, {});
  Array& zero = ctx.out(2, DType::kUint8, {});
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    const T* in = x.data<T>();
    float low = 0,
          high = 0;  // the range always holds 0; float in both modes, because ties of the rounding depend on it
    for (std::int64_t i = 0; i < x.size(); ++i) {
      low = std::min(low, static_cast<float>(in[i]));
      high = std::max(high, static_cast<float>(in[i]));
    }
    const float step = (high - low) / 255.0F;
    const double offset =
        step == 0 ? 0.0 : std::clamp(std::nearbyint(static_cast<double>((0.0F - low) / step)), 0.0, 255.0);
    *scale.mutable_data<T>() = static_cast<T>(step);
    *zero.mutable_data<std::uint8_t>() = static_cast<std::uint8_t>(offset);
    map_unary(in, y.mutable_data<std::uint8_t>(), x.size(), [=](T value) {
      if (step == 0) return std::uint8_t{0};
      const double whole = std::nearbyint(static_cast<double>(static_cast<float>(value) / step)) + offset;
      return static_cast<std::uint8_t>(whole != whole ? 0.0 : std::clamp(whole, 0.0, 255.0));
    });
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

}  // namespace

KernelRows quantize_kernels() {
  static const KernelRow kRows[] = {
      {"QuantizeLinear", 10, quantize_linear},
      {"DequantizeLinear", 10, dequantize_linear},
      {"DynamicQuantizeLinear", 11, dynamic_quantize_linear},
  };
  return kRows;
}

}  // namespace onnxfold
