// Kernels that make arrays from little or nothing: Constant, ConstantOfShape, EyeLike, Range, OneHot, BitCast.
#include <algorithm>
#include <cmath>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/run.h"
#include "exec/strided_copy.h"

namespace onnxfold {
namespace {

Status constant(KernelContext& ctx) {
  const Value* output = ctx.node().output();
  Tensor tensor;
  if (output != nullptr && output->constant() != nullptr) {
    tensor = *output->constant();
  } else if (const Attribute* sparse = ctx.node().attribute("sparse_value")) {
    const auto* value = std::get_if<SparseTensor>(&sparse->value);
    if (value == nullptr) return ctx.invalid("sparse_value is not a sparse tensor");
    OF_ASSIGN(tensor, densified(*value));
  } else {
    return ctx.invalid("no value");
  }
  OF_ASSIGN(Array array, to_array(tensor, ctx.precision()));
  ctx.set(0, std::move(array));
  return {};
}

template <typename T>
void fill(Array& array, const void* value) {
  std::fill_n(array.mutable_data<T>(), array.size(), *static_cast<const T*>(value));
}

Status constant_of_shape(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  OF_ASSIGN(const Dims dims, to_int64s(ctx.in(0)));
  if (std::any_of(dims.begin(), dims.end(), [](std::int64_t d) { return d < 0; })) return ctx.invalid("negative shape");
  Array value = ctx.make(DType::kFloat32, {1});
  visit_float(value.storage(), [&]<typename T>(Tag<T>) { *value.mutable_data<T>() = 0; });
  if (const Tensor* given = ctx.node().attr_tensor("value")) {
    OF_ASSIGN(value, to_array(*given, ctx.precision()));
    if (value.size() != 1) return ctx.invalid("value must hold one element");
  }
  Array& out = ctx.out(0, value.dtype(), dims);
  visit_movable(value.storage(), [&]<typename T>(Tag<T>) { fill<T>(out, value.raw()); });
  return {};
}

Status eye_like(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array like = ctx.in(0);
  if (like.rank() != 2) return ctx.invalid("input must have rank 2");
  const std::int64_t rows = like.dim(0), columns = like.dim(1), k = ctx.attr("k", std::int64_t{0});
  const auto dtype = static_cast<DType>(ctx.attr("dtype", static_cast<std::int64_t>(like.dtype())));
  Array& out = ctx.out(0, dtype, {rows, columns});
  const bool done = visit_real(out.storage(), [&]<typename T>(Tag<T>) {
    T* data = out.mutable_data<T>();
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) data[i * columns + j] = static_cast<T>(j - i == k ? 1 : 0);
    }
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

template <typename T>
Status fill_range(KernelContext& ctx) {
  const T start = *ctx.in(0).data<T>(), limit = *ctx.in(1).data<T>(), delta = *ctx.in(2).data<T>();
  if (delta == T{0}) return ctx.invalid("delta is 0");
  double count = 0;
  if constexpr (std::is_floating_point_v<T>) {
    count = std::ceil((static_cast<double>(limit) - static_cast<double>(start)) / static_cast<double>(delta));
    if (!std::isfinite(count)) return ctx.invalid("the range is not finite");
  } else {
    const __int128 span = static_cast<__int128>(limit) - static_cast<__int128>(start), step = delta;
    const bool empty = span == 0 || (span > 0) != (step > 0);
    count = empty ? 0.0 : static_cast<double>((span + step + (step > 0 ? -1 : 1)) / step);
  }
  if (count > 9e15) return ctx.invalid("the range is too long");
  Array& out = ctx.out(0, ctx.in(0).dtype(), {static_cast<std::int64_t>(std::max(count, 0.0))});
  T* data = out.mutable_data<T>();
  using Wide =
      std::conditional_t<std::is_floating_point_v<T>, double, std::uint64_t>;  // unsigned: wraps, never undefined
  for (std::int64_t i = 0; i < out.size(); ++i) {
    data[i] = static_cast<T>(static_cast<Wide>(start) + static_cast<Wide>(i) * static_cast<Wide>(delta));
  }
  return {};
}

Status range(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  for (std::size_t i = 0; i < 3; ++i) {
    if (ctx.in(i).size() != 1 || ctx.in(i).dtype() != ctx.in(0).dtype())
      return ctx.invalid("needs three numbers of one type");
  }
  Status status;
  const bool done = visit_numeric(ctx.in(0).storage(), [&]<typename T>(Tag<T>) { status = fill_range<T>(ctx); });
  if (!done) return ctx.unsupported("this element type");
  return status;
}

Status one_hot(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  const Array indices = ctx.in(0), values = ctx.in(2);
  OF_ASSIGN(const std::vector<double> depths, to_doubles(ctx.in(1)));
  if (depths.size() != 1 || !(depths[0] >= 1) || depths[0] > 9e15 || values.size() != 2) {
    return ctx.invalid("depth must be one positive number, values two elements");
  }
  const auto depth = static_cast<std::int64_t>(depths[0]);
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{-1}), indices.rank() + 1));
  OF_ASSIGN(const std::vector<double> picks, to_doubles(indices));
  Dims dims = indices.dims();
  dims.insert(dims.begin() + static_cast<std::ptrdiff_t>(axis), depth);
  Array& out = ctx.out(0, values.dtype(), dims);
  const AxisView view = axis_view(dims, axis);
  visit_movable(values.storage(), [&]<typename T>(Tag<T>) {
    const T off = values.data<T>()[0], on = values.data<T>()[1];
    T* data = out.mutable_data<T>();
    std::fill_n(data, out.size(), off);
    for (std::int64_t outer = 0; outer < view.outer; ++outer) {
      for (std::int64_t inner = 0; inner < view.inner; ++inner) {
        const double pick = std::trunc(picks[static_cast<std::size_t>(outer * view.inner + inner)]);
        const double index = pick < 0 ? pick + static_cast<double>(depth) : pick;
        if (index < 0 || index >= static_cast<double>(depth)) continue;
        data[(outer * depth + static_cast<std::int64_t>(index)) * view.inner + inner] = on;
      }
    }
  });
  return {};
}

Status bit_cast(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const auto to = static_cast<DType>(ctx.attr("to", std::int64_t{0}));
  if (ctx.in(0).dtype() == DType::kString || bit_width(to) == 0 || bit_width(to) != bit_width(ctx.in(0).dtype())) {
    return ctx.invalid("element types of different size");
  }
  OF_ASSIGN(const Tensor tensor, to_tensor(ctx.in(0)));
  OF_ASSIGN(Array array, to_array(tensor.reinterpreted(to, tensor.dims()), ctx.precision()));
  ctx.set(0, std::move(array));
  return {};
}

}  // namespace

KernelRows constant_kernels() {
  static const KernelRow kRows[] = {
      {"Constant", 1, constant}, {"ConstantOfShape", 9, constant_of_shape},
      {"EyeLike", 9, eye_like},  {"Range", 11, range},
      {"OneHot", 9, one_hot},    {"BitCast", 26, bit_cast},
  };
  return kRows;
}

}  // namespace onnxfold
