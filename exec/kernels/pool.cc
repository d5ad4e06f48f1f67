// MaxPool, AveragePool, LpPool and their global forms.
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"
#include "exec/kernels/window.h"

namespace onnxfold {
namespace {

// The part of one window along one axis: kernel positions [first, last) read inside the input.
struct Span {
  std::int64_t start, first, last;  // input position = start + i * dilation
};

Span clip(const Window& w, std::size_t axis, std::int64_t out) {
  const std::int64_t start = out * w.strides[axis] - w.pads_begin[axis], step = w.dilations[axis];
  const std::int64_t first = start >= 0 ? 0 : (-start + step - 1) / step;
  const std::int64_t room = w.in[axis] - start;
  return {start, first, room <= 0 ? first : std::max(first, std::min(w.kernel[axis], (room + step - 1) / step))};
}

// Kernel positions along one axis that fall on the input or its padding, but not past it (which ceil_mode can do).
std::int64_t padded_count(const Window& w, std::size_t axis, std::int64_t out) {
  const std::int64_t room = w.in[axis] + w.pads_end[axis] - (out * w.strides[axis] - w.pads_begin[axis]);
  return std::min(w.kernel[axis], std::max<std::int64_t>(0, (room + w.dilations[axis] - 1) / w.dilations[axis]));
}

// Calls visit(position in the plane) for the cells of one window, in row-major order.
template <typename F>
void each_cell(const Window& w, const Span (&s)[3], F&& visit) {
  for (std::int64_t d = s[0].first; d < s[0].last; ++d) {
    const std::int64_t at_d = (s[0].start + d * w.dilations[0]) * w.in[1];
    for (std::int64_t h = s[1].first; h < s[1].last; ++h) {
      const std::int64_t row = (at_d + s[1].start + h * w.dilations[1]) * w.in[2] + s[2].start;
      for (std::int64_t i = s[2].first; i < s[2].last; ++i) visit(row + i * w.dilations[2]);
    }
  }
}

// Calls reduce(plane, output offset, spans, output position) for every output element.
template <typename F>
void each_window(const Window& w, std::int64_t planes, F&& reduce) {
  const std::int64_t out = element_count(w.out),
                     cost = std::max<std::int64_t>(1, out * std::min<std::int64_t>(element_count(w.kernel), 64));
  std::vector<Span> columns;
  for (std::int64_t i = 0; i < w.out[2]; ++i) columns.push_back(clip(w, 2, i));
  parallel_for(planes, std::max<std::int64_t>(1, kElementGrain / cost), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      std::int64_t at = plane * out;
      for (std::int64_t d = 0; d < w.out[0]; ++d) {
        for (std::int64_t h = 0; h < w.out[1]; ++h) {
          Span spans[3] = {clip(w, 0, d), clip(w, 1, h), {}};
          for (std::int64_t i = 0; i < w.out[2]; ++i, ++at) {
            spans[2] = columns[static_cast<std::size_t>(i)];
            const std::int64_t position[3] = {d, h, i};
            reduce(plane, at, spans, position);
          }
        }
      }
    }
  });
}

struct Pool {
  Window window;  // three axes
  std::int64_t planes;
  Dims out_dims;
};

Result<Pool> read_pool(const KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Dims& dims = ctx.in(0).dims();
  if (dims.size() < 3) return ctx.invalid(fmt::format("X {} needs rank 3 or more", dims_text(dims)));
  if (dims.size() > 5) return ctx.unsupported("more than three spatial axes");
  OF_ASSIGN(const Window window,
            sliding_window(ctx, spatial_dims(dims), nullptr, ctx.attr("ceil_mode", std::int64_t{0}) != 0));
  Dims out{dims[0], dims[1]};
  out.insert(out.end(), window.out.begin(), window.out.end());
  return Pool{window.widened(3), dims[0] * dims[1], out};
}

template <typename T>
constexpr T lowest_value() {
  if constexpr (std::is_floating_point_v<T>) return -std::numeric_limits<T>::infinity();
  return std::numeric_limits<T>::lowest();
}

template <typename T>
void max_pool_values(const Pool& pool, const T* x, T* y) {
  const std::int64_t plane_size = element_count(pool.window.in);
  each_window(pool.window, pool.planes, [&](std::int64_t plane, std::int64_t at, const Span(&spans)[3], const auto&) {
    const T* from = x + plane * plane_size;
    T best = lowest_value<T>();
    each_cell(pool.window, spans, [&](std::int64_t cell) { best = from[cell] > best ? from[cell] : best; });
    y[at] = best;
  });
}

// Indices count through the whole input, planes in order; within a plane column-major when `by_column`.
template <typename T>
void max_pool_indices(const Pool& pool, const T* x, T* y, std::int64_t* indices, bool by_column) {
  const Window& w = pool.window;
  const std::int64_t plane_size = element_count(w.in);
  each_window(w, pool.planes, [&](std::int64_t plane, std::int64_t at, const Span(&spans)[3], const auto&) {
    const T* from = x + plane * plane_size;
    T best = lowest_value<T>();
    std::int64_t where = -1;
    each_cell(w, spans, [&](std::int64_t cell) {
      if (where < 0 || from[cell] > best) best = from[where = cell];
    });
    y[at] = best;
    where = std::max<std::int64_t>(where, 0);
    if (by_column) {
      const std::int64_t d = where / (w.in[1] * w.in[2]), h = where / w.in[2] % w.in[1], i = where % w.in[2];
      where = d + w.in[0] * (h + w.in[1] * i);
    }
    indices[at] = plane * plane_size + where;
  });
}

Status max_pool(KernelContext& ctx) {
  OF_ASSIGN(const Pool pool, read_pool(ctx));
  const Array& x = ctx.in(0);
  Array& y = ctx.out(0, x.dtype(), pool.out_dims);
  Array* indices = ctx.wants(1) ? &ctx.out(1, DType::kInt64, pool.out_dims) : nullptr;
  const bool by_column = ctx.attr("storage_order", std::int64_t{0}) != 0;
  const bool done = visit_numeric(x.storage(), [&]<typename T>(Tag<T>) {
    if (indices) {
      max_pool_indices(pool, x.data<T>(), y.mutable_data<T>(), indices->mutable_data<std::int64_t>(), by_column);
    } else {
      max_pool_values(pool, x.data<T>(), y.mutable_data<T>());
    }
  });
  return done ? Status{} : ctx.unsupported("element type is not a number");
}

Status average_pool(KernelContext& ctx) {
  OF_ASSIGN(const Pool pool, read_pool(ctx));
  const Array& x = ctx.in(0);
  Array& y = ctx.out(0, x.dtype(), pool.out_dims);
  const bool with_padding = ctx.attr("count_include_pad", std::int64_t{0}) != 0;
  const Window& w = pool.window;
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    const std::int64_t plane_size = element_count(w.in);
    T* to = y.mutable_data<T>();
    each_window(w, pool.planes, [&](std::int64_t plane, std::int64_t at, const Span(&spans)[3], const auto& position) {
      const T* from = x.data<T>() + plane * plane_size;
      double sum = 0;
      each_cell(w, spans, [&](std::int64_t cell) { sum += static_cast<double>(from[cell]); });
      std::int64_t count = 1;
      for (std::size_t axis = 0; axis < 3; ++axis) {
        count *= with_padding ? padded_count(w, axis, position[axis]) : spans[axis].last - spans[axis].first;
      }
      to[at] = static_cast<T>(count == 0 ? 0.0 : sum / static_cast<double>(count));
    });
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

// Power p as an integer since opset 2, a float before.
double norm_power(const KernelContext& ctx) {
  const double p = ctx.attr("p", -1.0F);
  return p > 0 ? p : static_cast<double>(ctx.attr("p", std::int64_t{2}));
}

double to_power(double x, double p) { return p == 1 ? std::abs(x) : p == 2 ? x * x : std::pow(std::abs(x), p); }
double from_power(double sum, double p) { return p == 1 ? sum : p == 2 ? std::sqrt(sum) : std::pow(sum, 1 / p); }

Status lp_pool(KernelContext& ctx) {
  OF_ASSIGN(const Pool pool, read_pool(ctx));
  const Array& x = ctx.in(0);
  Array& y = ctx.out(0, x.dtype(), pool.out_dims);
  const double p = norm_power(ctx);
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    const std::int64_t plane_size = element_count(pool.window.in);
    T* to = y.mutable_data<T>();
    each_window(pool.window, pool.planes, [&](std::int64_t plane, std::int64_t at, const Span(&spans)[3], const auto&) {
      const T* from = x.data<T>() + plane * plane_size;
      double sum = 0;
      each_cell(pool.window, spans, [&](std::int64_t cell) { sum += to_power(static_cast<double>(from[cell]), p); });
      to[at] = static_cast<T>(from_power(sum, p));
    });
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

// y[n, c, 1...] = finish(fold of step over the plane), in double.
template <typename Step, typename Finish>
Status global_pool(KernelContext& ctx, double start, Step step, Finish finish) {
  OF_TRY(ctx.need(1));
  const Array& x = ctx.in(0);
  if (x.rank() < 2) return ctx.invalid(fmt::format("X {} needs rank 2 or more", dims_text(x.dims())));
  Dims dims(x.dims().size(), 1);
  std::copy_n(x.dims().begin(), 2, dims.begin());
  Array& y = ctx.out(0, x.dtype(), dims);
  const std::int64_t count = y.size() == 0 ? 0 : x.size() / y.size();
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    T* to = y.mutable_data<T>();
    parallel_for(y.size(), std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(count, 1)),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t i = begin; i < end; ++i) {
                     const T* from = x.data<T>() + i * count;
                     double value = start;
                     for (std::int64_t j = 0; j < count; ++j) value = step(value, static_cast<double>(from[j]));
                     to[i] = static_cast<T>(finish(value, static_cast<double>(count)));
                   }
                 });
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

Status global_average_pool(KernelContext& ctx) {
  return global_pool(
      ctx, 0, [](double sum, double x) { return sum + x; }, [](double sum, double count) { return sum / count; });
}

Status global_max_pool(KernelContext& ctx) {
  return global_pool(
      ctx, lowest_value<double>(), [](double best, double x) { return x > best ? x : best; },
      [](double best, double) { return best; });
}

Status global_lp_pool(KernelContext& ctx) {
  const double p = norm_power(ctx);
  return global_pool(
      ctx, 0, [p](double sum, double x) { return sum + to_power(x, p); },
      [p](double sum, double) { return from_power(sum, p); });
}

constexpr KernelRow kRows[] = {
    {"MaxPool", 1, max_pool},
    {"AveragePool", 1, average_pool},
    {"LpPool", 1, lp_pool},
    {"GlobalAveragePool", 1, global_average_pool},
    {"GlobalMaxPool", 1, global_max_pool},
    {"GlobalLpPool", 1, global_lp_pool},
};

}  // namespace

KernelRows pool_kernels() { return kRows; }

}  // namespace onnxfold
