// Elementwise operators of two or more inputs, with broadcasting.
#include <algorithm>
#include <cmath>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

// Before opset 7 the second operand was aligned at `axis` and only broadcast when asked to.
Result<Array> aligned_right(const KernelContext& ctx) {
  const Array& a = ctx.in(0);
  const Array& b = ctx.in(1);
  const Attribute* axis = ctx.node().attribute("axis");
  if (ctx.opset() >= 7 || axis == nullptr) return b;
  OF_ASSIGN(const std::size_t at, resolve_axis(ctx, ctx.attr("axis", std::int64_t{0}), a.rank()));
  if (at + b.dims().size() > a.dims().size()) return ctx.invalid("axis leaves no room for the second input");
  Dims dims = b.dims();
  dims.resize(a.dims().size() - at, 1);
  return b.reshaped(std::move(dims));
}

struct Operands {
  Array a, b;
  Dims dims;
};

Result<Operands> operands(const KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  OF_ASSIGN(const Array b, aligned_right(ctx));
  Operands both{ctx.in(0), b, {}};
  const std::optional<Dims> dims = broadcast_dims(both.a.dims(), b.dims());
  if (!dims)
    return ctx.invalid(fmt::format("{} and {} do not broadcast", dims_text(both.a.dims()), dims_text(b.dims())));
  both.dims = *dims;
  return both;
}

template <typename A, typename B, typename O, typename Op>
void apply(const Operands& in, Array& out, Op op) {
  map_binary(in.a.data<A>(), in.a.dims(), in.b.data<B>(), in.b.dims(), out.mutable_data<O>(), in.dims, op);
}

// Without a share in the memory, which the context holds: a result may then be written over an input.
Array borrowed(const Array& array) {
  return Array::view(array.dtype(), array.dims(), array.storage(), nullptr, array.raw());
}

// Both of one type, result of the same type.
template <typename Op>
Status numbers(KernelContext& ctx, Op op) {
  OF_ASSIGN(Operands in, operands(ctx));
  in.a = borrowed(in.a);
  in.b = borrowed(in.b);
  if (in.a.dtype() != in.b.dtype()) return ctx.invalid("inputs differ in element type");
  Array& out = ctx.out_over(0, in.a.dims() == in.dims ? 0 : 1, in.a.dtype(), in.dims);
  const bool done = visit_numeric(in.a.storage(), [&]<typename T>(Tag<T>) { apply<T, T, T>(in, out, op); });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

// Integers wrap around; unsigned arithmetic keeps that defined.
template <typename T>
using Wide = std::conditional_t<std::is_floating_point_v<T>, T, std::uint64_t>;

constexpr auto kPlus = []<typename T>(T a, T b) {
  return static_cast<T>(static_cast<Wide<T>>(a) + static_cast<Wide<T>>(b));
};
Status add(KernelContext& ctx) { return numbers(ctx, kPlus); }
Status sub(KernelContext& ctx) {
  return numbers(
      ctx, []<typename T>(T a, T b) { return static_cast<T>(static_cast<Wide<T>>(a) - static_cast<Wide<T>>(b)); });
}
Status mul(KernelContext& ctx) {
  return numbers(
      ctx, []<typename T>(T a, T b) { return static_cast<T>(static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b)); });
}

// Division by zero of integers is undefined in ONNX; it must not stop the process: 0. Truncates toward zero.
template <typename T>
T divided(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    return a / b;
  else if (b == T{0})
    return T{0};
  else if constexpr (std::is_signed_v<T>)
    return b == T(-1) ? static_cast<T>(std::uint64_t{0} - static_cast<std::uint64_t>(a)) : static_cast<T>(a / b);
  else
    return static_cast<T>(a / b);
}
Status div(KernelContext& ctx) {
  return numbers(ctx, []<typename T>(T a, T b) { return divided(a, b); });
}

// fmod = 0: the sign of the divisor, as in Python; fmod = 1: the sign of the dividend, as in C.
template <typename T>
T remainder_of(T a, T b, bool c_style) {
  if constexpr (std::is_floating_point_v<T>) {
    const T r = std::fmod(a, b);
    return !c_style && r != T(0) && (r < T(0)) != (b < T(0)) ? r + b : r;
  } else {
    if (b == T{0} || b == static_cast<T>(-1))
      return b == T{0} ? T{0} : std::is_signed_v<T> ? T{0} : static_cast<T>(a % b);
    const T r = static_cast<T>(a % b);
    if constexpr (std::is_signed_v<T>) return !c_style && r != 0 && (r < 0) != (b < 0) ? static_cast<T>(r + b) : r;
    return r;
  }
}
Status mod(KernelContext& ctx) {
  const bool c_style = ctx.attr("fmod", std::int64_t{0}) != 0;
  return numbers(ctx, [=]<typename T>(T a, T b) { return remainder_of(a, b, c_style); });
}

template <typename T, typename E>
T power(T base, E exponent) {
  if constexpr (std::is_floating_point_v<T>) {
    if (exponent == E(2)) return base * base;
    return static_cast<T>(std::pow(base, static_cast<T>(exponent)));
  } else if constexpr (std::is_integral_v<E>) {
    // Exact modulo 2^64 by squaring; a negative exponent leaves 1, -1 or 0.
    if (exponent < E(0))
      return base == T(1) ? T(1) : base == static_cast<T>(-1) ? static_cast<T>(exponent % 2 == 0 ? 1 : -1) : T(0);
    std::uint64_t result = 1, factor = static_cast<std::uint64_t>(base);
    for (auto rest = static_cast<std::uint64_t>(exponent); rest != 0; rest >>= 1U, factor *= factor) {
      if ((rest & 1U) != 0) result *= factor;
    }
    return static_cast<T>(result);
  } else {
    const double value = std::pow(static_cast<double>(base), static_cast<double>(exponent));
    return std::abs(value) < 9.2e18 ? static_cast<T>(static_cast<std::int64_t>(value)) : T(0);
  }
}
// Exponents of every type as four: those of the base when that is a float, else the widest of their kind.
template <typename T, typename F>
bool visit_exponent(const Operands& in, F&& fn) {
  const auto as = [&]<typename E>(Tag<E>) {
    std::vector<E> wide(static_cast<std::size_t>(in.b.size()));
    const bool known = visit_numeric(in.b.storage(), [&]<typename S>(Tag<S>) {
      std::transform(in.b.data<S>(), in.b.data<S>() + in.b.size(), wide.begin(), [](S e) { return static_cast<E>(e); });
    });
    if (known) fn(wide.data());
    return known;
  };
  if constexpr (std::is_floating_point_v<T>) return as(Tag<T>{});
  const Storage storage = in.b.storage();
  if (storage == Storage::kFloat || storage == Storage::kDouble) return as(Tag<double>{});
  return storage == Storage::kUint64 ? as(Tag<std::uint64_t>{}) : as(Tag<std::int64_t>{});
}

Status pow(KernelContext& ctx) {
  OF_ASSIGN(const Operands in, operands(ctx));
  Array& out = ctx.out(0, in.a.dtype(), in.dims);
  bool done = false;
  visit_numeric(in.a.storage(), [&]<typename T>(Tag<T>) {
    done = visit_exponent<T>(in, [&]<typename E>(const E* exponents) {
      map_binary(in.a.data<T>(), in.a.dims(), exponents, in.b.dims(), out.mutable_data<T>(), in.dims,
                 [](T a, E b) { return power(a, b); });
    });
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

Status prelu(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  Operands in{ctx.in(0), ctx.in(1), ctx.in(0).dims()};
  // Before opset 7, one slope per channel.
  if (ctx.opset() < 7 && in.b.rank() == 1 && in.a.rank() > 2) {
    Dims dims(in.a.dims().size() - 1, 1);
    dims[0] = in.b.size();
    in.b = in.b.reshaped(std::move(dims));
  }
  if (broadcast_dims(in.a.dims(), in.b.dims()) != in.dims) return ctx.invalid("slope does not broadcast to the input");
  Array& out = ctx.out(0, in.a.dtype(), in.dims);
  const bool done = visit_numeric(in.a.storage(), [&]<typename T>(Tag<T>) {
    apply<T, T, T>(in, out, [](T x, T slope) { return x < T{0} ? static_cast<T>(x * slope) : x; });
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

// `swapped` compares b with a.
template <typename Op>
Status compare(KernelContext& ctx, Op op, bool swapped = false) {
  OF_ASSIGN(Operands in, operands(ctx));
  if (swapped) std::swap(in.a, in.b);
  if (in.a.dtype() != in.b.dtype()) return ctx.invalid("inputs differ in element type");
  Array& out = ctx.out(0, DType::kBool, in.dims);
  const auto run = [&]<typename T>(Tag<T>) {
    apply<T, T, bool>(in, out, [op](const T& a, const T& b) { return op(a, b); });
  };
  if (visit_real(in.a.storage(), run)) return {};
  if (in.a.storage() != Storage::kString) return ctx.unsupported("this element type");
  run(Tag<std::string>{});
  return {};
}
Status equal(KernelContext& ctx) { return compare(ctx, std::equal_to<>()); }
Status less(KernelContext& ctx) { return compare(ctx, std::less<>()); }
Status less_or_equal(KernelContext& ctx) { return compare(ctx, std::less_equal<>()); }
Status greater(KernelContext& ctx) { return compare(ctx, std::less<>(), true); }
Status greater_or_equal(KernelContext& ctx) { return compare(ctx, std::less_equal<>(), true); }

template <typename Op>
Status logical(KernelContext& ctx, Op op) {
  OF_ASSIGN(const Operands in, operands(ctx));
  if (in.a.storage() != Storage::kBool || in.b.storage() != Storage::kBool) return ctx.invalid("inputs must be bool");
  Array& out = ctx.out(0, DType::kBool, in.dims);
  apply<bool, bool, bool>(in, out, op);
  return {};
}
Status logical_and(KernelContext& ctx) {
  return logical(ctx, [](bool a, bool b) { return a && b; });
}
Status logical_or(KernelContext& ctx) {
  return logical(ctx, [](bool a, bool b) { return a || b; });
}
Status logical_xor(KernelContext& ctx) {
  return logical(ctx, [](bool a, bool b) { return a != b; });
}

template <typename Op>
Status bitwise(KernelContext& ctx, Op op) {
  OF_ASSIGN(const Operands in, operands(ctx));
  if (in.a.dtype() != in.b.dtype()) return ctx.invalid("inputs differ in element type");
  Array& out = ctx.out(0, in.a.dtype(), in.dims);
  const bool done = visit_integer(in.a.storage(), [&]<typename T>(Tag<T>) { apply<T, T, T>(in, out, op); });
  if (!done) return ctx.unsupported("this element type");
  return {};
}
Status bitwise_and(KernelContext& ctx) {
  return bitwise(ctx, []<typename T>(T a, T b) { return static_cast<T>(a & b); });
}
Status bitwise_or(KernelContext& ctx) {
  return bitwise(ctx, []<typename T>(T a, T b) { return static_cast<T>(a | b); });
}
Status bitwise_xor(KernelContext& ctx) {
  return bitwise(ctx, []<typename T>(T a, T b) { return static_cast<T>(a ^ b); });
}
// Shifts right keep the sign; amounts outside the width shift everything out.
template <typename T>
T shifted(T a, T amount, bool left) {
  using Bits = std::make_unsigned_t<T>;
  const bool out = static_cast<Bits>(amount) >= sizeof(T) * 8;
  if (!left) return static_cast<T>(out ? (a < T{0} ? -1 : 0) : a >> amount);
  return out ? T{0} : static_cast<T>(static_cast<std::uint64_t>(a) << static_cast<Bits>(amount));
}
Status bit_shift(KernelContext& ctx) {
  const bool left = ctx.attr("direction", "") == "LEFT";
  return bitwise(ctx, [=]<typename T>(T a, T b) { return shifted(a, b, left); });
}

// Folds any number of inputs from the left.
template <typename Op>
Status variadic(KernelContext& ctx, Op op, bool mean = false) {
  OF_TRY(ctx.need(std::max<std::size_t>(1, ctx.input_count())));
  Array total = ctx.in(0);
  for (std::size_t i = 1; i < ctx.input_count(); ++i) {
    const Array& next = ctx.in(i);
    const std::optional<Dims> dims = broadcast_dims(total.dims(), next.dims());
    if (!dims || next.dtype() != total.dtype()) return ctx.invalid("inputs do not broadcast or differ in element type");
    Array made = ctx.make(total.dtype(), *dims);
    const bool done = visit_numeric(total.storage(), [&]<typename T>(Tag<T>) {
      map_binary(total.data<T>(), total.dims(), next.data<T>(), next.dims(), made.mutable_data<T>(), *dims, op);
    });
    if (!done) return ctx.unsupported("this element type");
    total = std::move(made);
  }
  if (mean && ctx.input_count() > 1) {
    const auto count = static_cast<double>(ctx.input_count());
    visit_float(total.storage(), [&]<typename T>(Tag<T>) {
      map_unary(total.data<T>(), total.mutable_data<T>(), total.size(), [=](T x) { return static_cast<T>(x / count); });
    });
  }
  ctx.set(0, std::move(total));
  return {};
}

// NaN in either operand stays, as numpy has it.
template <typename T>
T larger(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a != a ? a : (b != b || b > a ? b : a);
  return std::max(a, b);
}
template <typename T>
T smaller(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a != a ? a : (b != b || b < a ? b : a);
  return std::min(a, b);
}
Status max(KernelContext& ctx) {
  return variadic(ctx, []<typename T>(T a, T b) { return larger(a, b); });
}
Status min(KernelContext& ctx) {
  return variadic(ctx, []<typename T>(T a, T b) { return smaller(a, b); });
}
Status sum(KernelContext& ctx) { return variadic(ctx, kPlus); }
Status mean(KernelContext& ctx) { return variadic(ctx, kPlus, true); }

Status where(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  const Array condition = ctx.in(0), x = ctx.in(1), y = ctx.in(2);
  if (condition.storage() != Storage::kBool || x.dtype() != y.dtype()) return ctx.invalid("wrong element types");
  const std::optional<Dims> dims = broadcast_dims({&condition.dims(), &x.dims(), &y.dims()});
  if (!dims) return ctx.invalid("inputs do not broadcast");
  Array& out = ctx.out(0, x.dtype(), *dims);
  visit_movable(x.storage(), [&]<typename T>(Tag<T>) {
    for_each_run<3>(*dims, {&condition.dims(), &x.dims(), &y.dims()},
                    [&](std::int64_t at, std::int64_t n, auto& from, auto& step) {
                      const bool* c = condition.data<bool>() + from[0];
                      const T *p = x.data<T>() + from[1], *q = y.data<T>() + from[2];
                      T* to = out.mutable_data<T>() + at;
                      for (std::int64_t i = 0; i < n; ++i) to[i] = c[i * step[0]] ? p[i * step[1]] : q[i * step[2]];
                    });
  });
  return {};
}

}  // namespace

KernelRows elementwise_binary_kernels() {
  static const KernelRow kRows[] = {
      {"Add", 1, add},
      {"And", 1, logical_and},
      {"BitShift", 11, bit_shift},
      {"BitwiseAnd", 18, bitwise_and},
      {"BitwiseOr", 18, bitwise_or},
      {"BitwiseXor", 18, bitwise_xor},
      {"Div", 1, div},
      {"Equal", 1, equal},
      {"Greater", 1, greater},
      {"GreaterOrEqual", 12, greater_or_equal},
      {"Less", 1, less},
      {"LessOrEqual", 12, less_or_equal},
      {"Max", 1, max},
      {"Mean", 1, mean},
      {"Min", 1, min},
      {"Mod", 10, mod},
      {"Mul", 1, mul},
      {"Or", 1, logical_or},
      {"PRelu", 1, prelu},
      {"Pow", 1, pow},
      {"Sub", 1, sub},
      {"Sum", 1, sum},
      {"Where", 9, where},
      {"Xor", 1, logical_xor},
  };
  return kRows;
}

}  // namespace onnxfold
