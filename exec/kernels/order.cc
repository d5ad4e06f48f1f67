// Kernels that search and order: TopK, Unique, NonZero, Trilu.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/parallel.h"
#include "exec/strided_copy.h"

namespace onnxfold {
namespace {

// Total order with NaN above every number, as numpy sorts.
template <typename T>
bool less(const T& a, const T& b) {
  if constexpr (std::is_floating_point_v<T>) return std::isnan(b) ? !std::isnan(a) : a < b;
  return a < b;
}

Result<std::int64_t> top_count(const KernelContext& ctx) {
  if (ctx.opset() < 10) return ctx.attr("k", std::int64_t{-1});
  OF_TRY(ctx.need(2));
  OF_ASSIGN(const std::vector<std::int64_t> k, to_int64s(ctx.in(1)));
  if (k.size() != 1) return ctx.invalid("K must be one number");
  return k[0];
}

struct TopJob {
  AxisView view;
  std::int64_t k;
  bool largest, sorted;
};

template <typename T>
void top_k_lines(const TopJob& job, const T* in, T* values, std::int64_t* indices) {
  const auto [outer, dim, inner] = job.view;
  const std::int64_t k = job.k;
  parallel_for(outer * inner, std::max<std::int64_t>(1, kElementGrain / 8 / std::max<std::int64_t>(1, dim)),
               [&, dim = dim, inner = inner](std::int64_t begin, std::int64_t end) {
                 std::vector<std::int64_t> order(static_cast<std::size_t>(dim));
                 for (std::int64_t line = begin; line < end; ++line) {
                   const T* from = in + line / inner * dim * inner + line % inner;
                   const auto before = [&](std::int64_t a, std::int64_t b) {
                     const T &x = from[a * inner], &y = from[b * inner];
                     if (job.largest ? less(y, x) : less(x, y)) return true;
                     return !(job.largest ? less(x, y) : less(y, x)) && a < b;  // ties: the lower index first
                   };
                   std::iota(order.begin(), order.end(), std::int64_t{0});
                   std::partial_sort(order.begin(), order.begin() + k, order.end(), before);
                   const std::int64_t to = line / inner * k * inner + line % inner;
                   for (std::int64_t i = 0; i < k; ++i) {
                     indices[to + i * inner] = order[static_cast<std::size_t>(i)];
                     values[to + i * inner] = from[order[static_cast<std::size_t>(i)] * inner];
                   }
                 }
               });
}

Status top_k(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array data = ctx.in(0);
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{-1}), data.rank()));
  OF_ASSIGN(const std::int64_t k, top_count(ctx));
  if (k < 0 || k > data.dims()[axis]) return ctx.invalid(fmt::format("K = {} for an axis of {}", k, data.dims()[axis]));
  const TopJob job{axis_view(data.dims(), axis), k, ctx.attr("largest", std::int64_t{1}) != 0,
                   ctx.attr("sorted", std::int64_t{1}) != 0};
  Dims dims = data.dims();
  dims[axis] = k;
  Array& values = ctx.out(0, data.dtype(), dims);
  Array& indices = ctx.out(1, DType::kInt64, dims);
  const bool done = visit_numeric(data.storage(), [&]<typename T>(Tag<T>) {
    top_k_lines<T>(job, data.data<T>(), values.mutable_data<T>(), indices.mutable_data<std::int64_t>());
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

// Slices along the axis compared element by element, in row-major order of the other axes.
template <typename T>
bool slice_less(const T* data, const AxisView& view, std::int64_t a, std::int64_t b) {
  for (std::int64_t outer = 0; outer < view.outer; ++outer) {
    const T* x = data + (outer * view.dim + a) * view.inner;
    const T* y = data + (outer * view.dim + b) * view.inner;
    for (std::int64_t i = 0; i < view.inner; ++i) {
      if (less(x[i], y[i])) return true;
      if (less(y[i], x[i])) return false;
    }
  }
  return false;
}

struct Groups {
  std::vector<std::int64_t> first, inverse, counts;  // per group: lowest index, size; per slice: its group
};

template <typename T>
Groups group_slices(const T* data, const AxisView& view, bool sorted) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(view.dim));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return slice_less(data, view, a, b); });
  std::vector<std::pair<std::int64_t, std::vector<std::int64_t>>> groups;  // first index, members
  for (const std::int64_t index : order) {
    if (groups.empty() || slice_less(data, view, groups.back().first, index)) groups.push_back({index, {}});
    groups.back().second.push_back(index);
  }
  if (!sorted) {
    std::sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  }
  Groups result;
  result.inverse.resize(order.size());
  for (const auto& [first, members] : groups) {
    for (const std::int64_t member : members) {
      result.inverse[static_cast<std::size_t>(member)] = static_cast<std::int64_t>(result.first.size());
    }
    result.first.push_back(first);
    result.counts.push_back(static_cast<std::int64_t>(members.size()));
  }
  return result;
}

void put(KernelContext& ctx, std::size_t output, const std::vector<std::int64_t>& values) {
  Array& out = ctx.out(output, DType::kInt64, {static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), out.mutable_data<std::int64_t>());
}

Status unique(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  Array data = ctx.in(0);
  if (ctx.node().attribute("axis") == nullptr) data = data.reshaped({data.size()});
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{0}), data.rank()));
  const AxisView view = axis_view(data.dims(), axis);
  Groups groups;
  const bool sorted = ctx.attr("sorted", std::int64_t{1}) != 0;
  const auto group = [&]<typename T>(Tag<T>) { groups = group_slices<T>(data.data<T>(), view, sorted); };
  if (!visit_real(data.storage(), group)) {
    if (data.storage() != Storage::kString) return ctx.unsupported("this element type");
    group(Tag<std::string>{});
  }
  Dims dims = data.dims();
  dims[axis] = static_cast<std::int64_t>(groups.first.size());
  Array& out = ctx.out(0, data.dtype(), dims);
  std::int64_t at = 0;
  for (std::int64_t outer = 0; outer < view.outer; ++outer) {
    for (const std::int64_t first : groups.first) {
      copy_elements(data.storage(), data.raw(), (outer * view.dim + first) * view.inner, out.mutable_raw(), at,
                    view.inner);
      at += view.inner;
    }
  }
  put(ctx, 1, groups.first);
  put(ctx, 2, groups.inverse);
  put(ctx, 3, groups.counts);
  return {};
}

Status non_zero(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array data = ctx.in(0);
  std::vector<std::int64_t> hits;
  const auto collect = [&]<typename T>(Tag<T>) {
    for (std::int64_t i = 0; i < data.size(); ++i) {
      if (data.data<T>()[i] != T{}) hits.push_back(i);
    }
  };
  if (!visit_real(data.storage(), collect)) {
    if (data.storage() != Storage::kString) return ctx.unsupported("this element type");
    collect(Tag<std::string>{});
  }
  const auto count = static_cast<std::int64_t>(hits.size());
  Array& out = ctx.out(0, DType::kInt64, {data.rank(), count});
  std::int64_t* to = out.mutable_data<std::int64_t>();
  for (int axis = data.rank(); axis-- > 0;) {
    for (std::int64_t i = 0; i < count; ++i) {
      std::int64_t& rest = hits[static_cast<std::size_t>(i)];
      to[axis * count + i] = rest % data.dim(axis);
      rest /= data.dim(axis);
    }
  }
  return {};
}

template <typename T>
void keep_triangle(const Array& data, Array& out, bool upper, std::int64_t k) {
  const std::int64_t rows = data.dim(-2), columns = data.dim(-1);
  const T* in = data.data<T>();
  T* to = out.mutable_data<T>();
  parallel_for(data.size() / columns, std::max<std::int64_t>(1, kElementGrain / columns),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t line = begin; line < end; ++line) {
                   // Columns [0, cut) are below the kept diagonal band when upper, kept when lower.
                   const std::int64_t edge = line % rows + k + (upper ? 0 : 1);
                   const std::int64_t cut = std::clamp<std::int64_t>(edge, 0, columns);
                   const T* from = in + line * columns;
                   T* row = to + line * columns;
                   std::fill_n(upper ? row : row + cut, upper ? cut : columns - cut, T{});
                   std::copy_n(upper ? from + cut : from, upper ? columns - cut : cut, upper ? row + cut : row);
                 }
               });
}

Status trilu(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array data = ctx.in(0);
  if (data.rank() < 2) return ctx.invalid("input must have rank 2 or more");
  std::int64_t k = 0;
  if (ctx.has(1)) {
    OF_ASSIGN(const std::vector<std::int64_t> given, to_int64s(ctx.in(1)));
    if (given.size() != 1) return ctx.invalid("k must be one number");
    k = std::clamp<std::int64_t>(given[0], -data.dim(-2) - 1, data.dim(-1) + 1);
  }
  const bool upper = ctx.attr("upper", std::int64_t{1}) != 0;
  Array& out = ctx.out(0, data.dtype(), data.dims());
  if (out.size() == 0) return {};
  visit_movable(data.storage(), [&]<typename T>(Tag<T>) { keep_triangle<T>(data, out, upper, k); });
  return {};
}

}  // namespace

KernelRows order_kernels() {
  static const KernelRow kRows[] = {
      {"TopK", 1, top_k},
      {"Unique", 11, unique},
      {"NonZero", 9, non_zero},
      {"Trilu", 14, trilu},
  };
  return kRows;
}

}  // namespace onnxfold
