// Reductions over axes, ArgMax and ArgMin.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/parallel.h"
#include "exec/strided_copy.h"

namespace onnxfold {
namespace {

template <typename T>
using Sum = std::conditional_t<std::is_floating_point_v<T>, double, std::uint64_t>;  // integers wrap, defined

// Each reducer folds one value into an accumulator and finishes it.
template <typename T>
struct SumOf {
  Sum<T> total = 0;
  void add(T x) { total += static_cast<Sum<T>>(x); }
  T finish(std::int64_t) const { return static_cast<T>(total); }
};
template <typename T>
struct MeanOf : SumOf<T> {
  T finish(std::int64_t count) const {
    if constexpr (std::is_floating_point_v<T>)
      return static_cast<T>(this->total / static_cast<double>(count));
    else
      return count == 0 ? T{0} : static_cast<T>(static_cast<std::int64_t>(this->total) / count);
  }
};
template <typename T>
struct ProdOf {
  Sum<T> total = 1;
  void add(T x) { total *= static_cast<Sum<T>>(x); }
  T finish(std::int64_t) const { return static_cast<T>(total); }
};
template <typename T>
struct MaxOf {
  T best =
      std::numeric_limits<T>::has_infinity ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::lowest();
  void add(T x) {
    if (x > best || x != x) best = best != best ? best : x;
  }
  T finish(std::int64_t) const { return best; }
};
template <typename T>
struct MinOf {
  T best = std::numeric_limits<T>::has_infinity ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::max();
  void add(T x) {
    if (x < best || x != x) best = best != best ? best : x;
  }
  T finish(std::int64_t) const { return best; }
};
template <typename T>
struct L1Of : SumOf<T> {
  void add(T x) { SumOf<T>::add(x < T{0} ? static_cast<T>(T{0} - x) : x); }
};
template <typename T>
struct SumSquareOf {
  Sum<T> total = 0;
  void add(T x) { total += static_cast<Sum<T>>(x) * static_cast<Sum<T>>(x); }
  T finish(std::int64_t) const { return static_cast<T>(total); }
};
template <typename T>
struct L2Of : SumSquareOf<T> {
  T finish(std::int64_t) const { return static_cast<T>(std::sqrt(static_cast<double>(this->total))); }
};
template <typename T>
struct LogSumOf : SumOf<T> {
  T finish(std::int64_t) const { return static_cast<T>(std::log(static_cast<double>(this->total))); }
};
// Keeps the sum relative to the largest value seen, so that exp cannot overflow.
template <typename T>
struct LogSumExpOf {
  double top = -std::numeric_limits<double>::infinity(), total = 0;
  void add(T value) {
    const auto x = static_cast<double>(value);
    if (x <= top || x != x) {
      total += x == top ? 1.0 : std::exp(x - top);
    } else {
      total = total * std::exp(top - x) + 1.0;
      top = x;
    }
  }
  T finish(std::int64_t) const { return static_cast<T>(std::isinf(top) ? top : top + std::log(total)); }
};

struct Reduction {
  std::vector<bool> reduced;  // per axis
  Dims kept;                  // output dims
};

Result<Reduction> reduction_of(const KernelContext& ctx, std::int64_t axes_as_input_since) {
  OF_TRY(ctx.need(1));
  const Dims& dims = ctx.in(0).dims();
  Dims axes;
  if (ctx.opset() >= axes_as_input_since) {
    if (ctx.has(1)) {
      OF_ASSIGN(axes, to_int64s(ctx.in(1)));
    }
  } else {
    axes = ctx.node().attr_ints("axes").value_or(Dims{});
  }
  const bool nothing = axes.empty() && ctx.attr("noop_with_empty_axes", std::int64_t{0}) != 0;
  Reduction plan;
  plan.reduced.assign(dims.size(), axes.empty() && !nothing);
  for (const std::int64_t axis : axes) {
    OF_ASSIGN(const std::size_t at, resolve_axis(ctx, axis, ctx.in(0).rank()));
    plan.reduced[at] = true;
  }
  const bool keep = ctx.attr("keepdims", std::int64_t{1}) != 0;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (!plan.reduced[i]) plan.kept.push_back(dims[i]);
    if (plan.reduced[i] && keep) plan.kept.push_back(1);
  }
  return plan;
}

// The input with all reduced axes moved behind the kept ones, seen as [outer, inner], when they do not lie in one
// block; else [outer, middle, inner] as it is.
struct Layout {
  Array data;
  AxisView view;
};

Layout laid_out(const KernelContext& ctx, const Array& data, const std::vector<bool>& reduced) {
  const Dims& dims = data.dims();
  const auto first = std::find(reduced.begin(), reduced.end(), true);
  const auto last = std::find(first, reduced.end(), false);
  AxisView view;
  if (std::find(last, reduced.end(), true) == reduced.end()) {
    for (std::size_t i = 0; i < dims.size(); ++i) {
      const auto at = reduced.begin() + static_cast<std::ptrdiff_t>(i);
      (at < first ? view.outer : at < last ? view.dim : view.inner) *= dims[i];
    }
    return {data, view};
  }
  const Dims strides = row_major_strides(dims);
  Dims order_dims, order_strides;
  for (const bool wanted : {false, true}) {
    for (std::size_t i = 0; i < dims.size(); ++i) {
      if (reduced[i] != wanted) continue;
      order_dims.push_back(dims[i]);
      order_strides.push_back(strides[i]);
      (wanted ? view.dim : view.outer) *= dims[i];
    }
  }
  Array moved = ctx.make(data.dtype(), order_dims);
  strided_copy(data.storage(), order_dims, data.raw(), order_strides, moved.mutable_raw(),
               row_major_strides(order_dims));
  return {moved, view};
}

template <typename R, typename T>
void reduce_lines(const AxisView& view, const T* in, T* out) {
  const std::int64_t grain = std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, view.dim));
  if (view.inner == 1) {
    parallel_for(view.outer, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t o = begin; o < end; ++o) {
        R reducer;
        const T* line = in + o * view.dim;
        for (std::int64_t i = 0; i < view.dim; ++i) reducer.add(line[i]);
        out[o] = reducer.finish(view.dim);
      }
    });
    return;
  }
  // Columns side by side: one reducer each, so that memory is read in order.
  parallel_for(view.outer * view.inner, grain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<R> reducers;
    while (begin < end) {
      const std::int64_t o = begin / view.inner, column = begin % view.inner;
      const std::int64_t width = std::min({view.inner - column, end - begin, std::int64_t{1024}});
      reducers.assign(static_cast<std::size_t>(width), R{});
      const T* from = in + o * view.dim * view.inner + column;
      for (std::int64_t i = 0; i < view.dim; ++i, from += view.inner) {
        for (std::int64_t k = 0; k < width; ++k) reducers[static_cast<std::size_t>(k)].add(from[k]);
      }
      for (std::int64_t k = 0; k < width; ++k) out[begin + k] = reducers[static_cast<std::size_t>(k)].finish(view.dim);
      begin += width;
    }
  });
}

template <template <typename> typename R, int kAxesInput>
Status reduce(KernelContext& ctx) {
  OF_ASSIGN(const Reduction plan, reduction_of(ctx, kAxesInput));
  const Array data = ctx.in(0);
  const bool none = std::find(plan.reduced.begin(), plan.reduced.end(), true) == plan.reduced.end();
  Array& out = ctx.out(0, data.dtype(), plan.kept);
  Layout layout = none ? Layout{data, {data.size(), 1, 1}} : laid_out(ctx, data, plan.reduced);
  const bool done = visit_numeric(data.storage(), [&]<typename T>(Tag<T>) {
    reduce_lines<R<T>, T>(layout.view, layout.data.data<T>(), out.mutable_data<T>());
  });
  if (done) return {};
  if constexpr (std::is_same_v<R<float>, MaxOf<float>> || std::is_same_v<R<float>, MinOf<float>>) {
    if (data.storage() == Storage::kBool) {  // as the numbers 0 and 1
      reduce_lines<R<std::uint8_t>, std::uint8_t>(layout.view, static_cast<const std::uint8_t*>(layout.data.raw()),
                                                  static_cast<std::uint8_t*>(out.mutable_raw()));
      // An empty line has no boolean identity in uint8: 255 means true.
      auto* bytes = static_cast<std::uint8_t*>(out.mutable_raw());
      for (std::int64_t i = 0; i < out.size(); ++i) bytes[i] = bytes[i] != 0 ? 1 : 0;
      return {};
    }
  }
  return ctx.unsupported("this element type");
}

template <bool kMax>
Status arg_extreme(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array data = ctx.in(0);
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{0}), data.rank()));
  const bool last = ctx.attr("select_last_index", std::int64_t{0}) != 0;
  const AxisView view = axis_view(data.dims(), axis);
  Dims dims = data.dims();
  dims[axis] = 1;
  if (ctx.attr("keepdims", std::int64_t{1}) == 0) dims.erase(dims.begin() + static_cast<std::ptrdiff_t>(axis));
  if (view.dim == 0 && data.size() == 0 && element_count(dims) > 0) return ctx.invalid("the axis is empty");
  Array& out = ctx.out(0, DType::kInt64, std::move(dims));
  std::int64_t* to = out.mutable_data<std::int64_t>();
  const bool done = visit_numeric(data.storage(), [&]<typename T>(Tag<T>) {
    const T* in = data.data<T>();
    parallel_for(view.outer * view.inner,
                 std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, view.dim)),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t line = begin; line < end; ++line) {
                     const T* from = in + line / view.inner * view.dim * view.inner + line % view.inner;
                     std::int64_t best = 0;
                     for (std::int64_t i = 1; i < view.dim; ++i) {
                       const T &x = from[i * view.inner], &y = from[best * view.inner];
                       const bool better = kMax ? x > y : x < y;
                       if (better || (last && x == y) || (x != x && y == y)) best = i;  // NaN wins, as in numpy
                     }
                     to[line] = best;
                   }
                 });
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

}  // namespace

KernelRows reduce_kernels() {
  static const KernelRow kRows[] = {
      {"ArgMax", 1, arg_extreme<true>},          {"ArgMin", 1, arg_extreme<false>},
      {"ReduceL1", 1, reduce<L1Of, 18>},         {"ReduceL2", 1, reduce<L2Of, 18>},
      {"ReduceLogSum", 1, reduce<LogSumOf, 18>}, {"ReduceLogSumExp", 1, reduce<LogSumExpOf, 18>},
      {"ReduceMax", 1, reduce<MaxOf, 18>},       {"ReduceMean", 1, reduce<MeanOf, 18>},
      {"ReduceMin", 1, reduce<MinOf, 18>},       {"ReduceProd", 1, reduce<ProdOf, 18>},
      {"ReduceSum", 1, reduce<SumOf, 13>},       {"ReduceSumSquare", 1, reduce<SumSquareOf, 18>},
  };
  return kRows;
}

}  // namespace onnxfold
