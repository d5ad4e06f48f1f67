#include "exec/integer/fixed_arithmetic.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "exec/broadcast.h"

namespace onnxfold {
namespace {

constexpr int kSumBits = 62;
constexpr int kQuotientBits = 24;

struct Number {
  std::int64_t mantissa = 0;
  std::int32_t exponent = 0;
};

std::int64_t magnitude(std::int64_t x) { return x < 0 ? -x : x; }
int width_of(std::int64_t x) { return std::bit_width(static_cast<std::uint64_t>(magnitude(x))); }

// Sum of two numbers. Where they are so far apart that the sum does not fit, the larger one is the sum in any
// arithmetic of 24 bits.
Number add(Number a, Number b, std::int64_t& peak) {
  if (a.mantissa == 0) return b;
  if (b.mantissa == 0) return a;
  if (a.exponent < b.exponent) std::swap(a, b);
  const std::int32_t shift = a.exponent - b.exponent;
  if (shift + width_of(a.mantissa) > kSumBits - 1) return a;
  const std::int64_t sum = a.mantissa * (std::int64_t{1} << shift) + b.mantissa;
  peak = std::max(peak, magnitude(sum));
  return {sum, b.exponent};
}

int compare(Number a, Number b) {
  std::int64_t unused = 0;
  const Number difference = add(a, {-b.mantissa, b.exponent}, unused);
  return difference.mantissa > 0 ? 1 : difference.mantissa < 0 ? -1 : 0;
}

// Rounds a magnitude to an even last bit `shift` places up. `sticky`: something below is not zero.
std::uint64_t round_shift(std::uint64_t value, int shift, bool sticky) {
  if (shift <= 0) return value;
  if (shift > 63) return 0;
  const std::uint64_t unit = std::uint64_t{1} << shift, half = unit / 2, rest = value & (unit - 1);
  const std::uint64_t kept = value >> shift;
  const bool up = rest > half || (rest == half && (sticky || kept % 2 == 1));
  return kept + (up ? 1 : 0);
}

// The quotient of integers with 24 bits, by long division.
Number divide(Number a, Number b) {
  if (a.mantissa == 0) return {};
  const auto top = static_cast<std::uint64_t>(magnitude(a.mantissa)),
             bottom = static_cast<std::uint64_t>(magnitude(b.mantissa));
  const int shift = std::max(0, kQuotientBits + 3 + width_of(b.mantissa) - width_of(a.mantissa));
  const auto wide = static_cast<unsigned __int128>(top) << shift;
  const auto quotient = static_cast<std::uint64_t>(wide / bottom);
  const bool sticky = wide % bottom != 0;
  const int surplus = std::bit_width(quotient) - kQuotientBits;
  const auto rounded = static_cast<std::int64_t>(round_shift(quotient, surplus, sticky));
  const bool negative = (a.mantissa < 0) != (b.mantissa < 0);
  return {negative ? -rounded : rounded, a.exponent - b.exponent - shift + std::max(surplus, 0)};
}

std::int64_t widest(const std::vector<std::int64_t>& mantissas) {
  std::int64_t most = 0;
  for (const std::int64_t m : mantissas) most = std::max(most, magnitude(m));
  return most;
}

bool any_infinite(const FixedArray& x) {
  return std::any_of(x.exponents.begin(), x.exponents.end(), [](std::int32_t e) { return e >= kInfiniteExponent; });
}

struct AxisSpan {
  std::size_t outer = 1, length = 1, inner = 1;
};

AxisSpan span_of(const Dims& dims, std::int64_t axis) {
  AxisSpan span;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    (at < axis ? span.outer : at == axis ? span.length : span.inner) *= static_cast<std::size_t>(dims[i]);
  }
  return span;
}

}  // namespace

std::optional<FixedArray> fixed_binary(FixedBinary op, const FixedArray& a, const FixedArray& b, Peak& peak) {
  const auto dims = broadcast_dims(a.dims, b.dims);
  if (!dims) return {};
  const bool product = op == FixedBinary::kMul || op == FixedBinary::kDiv;
  if (product && (any_infinite(a) || any_infinite(b))) return {};
  if (op == FixedBinary::kMul && width_of(widest(a.mantissas)) + width_of(widest(b.mantissas)) > kSumBits) return {};
  if (op == FixedBinary::kDiv && std::any_of(b.mantissas.begin(), b.mantissas.end(), [](auto m) { return m == 0; })) {
    return {};
  }
  FixedArray out(*dims);
  std::int64_t most = 0;
  const internal::BroadcastLoops loops = [&] {
    const Dims* operands[] = {&a.dims, &b.dims};
    return internal::broadcast_loops(out.dims, operands, 2);
  }();
  std::vector<std::int64_t> index(loops.dims.size(), 0);
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::int64_t at_a = 0, at_b = 0;
    for (std::size_t axis = 0; axis < index.size(); ++axis) {
      at_a += index[axis] * loops.strides[0][axis];
      at_b += index[axis] * loops.strides[1][axis];
    }
    const auto p = static_cast<std::size_t>(at_a), q = static_cast<std::size_t>(at_b);
    const Number x{a.mantissas[p], a.exponents[p]}, y{b.mantissas[q], b.exponents[q]};
    Number z;
    switch (op) {
      case FixedBinary::kAdd:
        z = add(x, y, most);
        break;
      case FixedBinary::kSub:
        z = add(x, {-y.mantissa, y.exponent}, most);
        break;
      case FixedBinary::kMul:
        z = {x.mantissa * y.mantissa, x.mantissa * y.mantissa == 0 ? 0 : x.exponent + y.exponent};
        most = std::max(most, magnitude(z.mantissa));
        break;
      case FixedBinary::kDiv:
        z = divide(x, y);
        break;
      case FixedBinary::kMax:
        z = compare(x, y) >= 0 ? x : y;
        break;
      case FixedBinary::kMin:
        z = compare(x, y) <= 0 ? x : y;
        break;
    }
    out.mantissas[i] = z.mantissa;
    out.exponents[i] = z.exponent;
    for (std::size_t axis = index.size(); axis-- > 0;) {
      if (++index[axis] < loops.dims[axis]) break;
      index[axis] = 0;
    }
  }
  peak.see(most);
  return out;
}

std::optional<FixedArray> fixed_sum(const FixedArray& x, std::int64_t axis, Peak& peak) {
  if (any_infinite(x)) return {};
  const AxisSpan span = span_of(x.dims, axis);
  Dims dims = x.dims;
  dims[static_cast<std::size_t>(axis)] = 1;
  FixedArray out(dims);
  for (std::size_t o = 0; o < span.outer; ++o) {
    for (std::size_t i = 0; i < span.inner; ++i) {
      const auto at = [&](std::size_t l) { return (o * span.length + l) * span.inner + i; };
      bool any = false;
      std::int32_t least = 0;
      for (std::size_t l = 0; l < span.length; ++l) {
        if (x.mantissas[at(l)] == 0) continue;
        least = any ? std::min(least, x.exponents[at(l)]) : x.exponents[at(l)];
        any = true;
      }
      std::int64_t sum = 0, total = 0;
      const int spare = kSumBits - std::bit_width(span.length);
      for (std::size_t l = 0; l < span.length; ++l) {
        const std::int64_t mantissa = x.mantissas[at(l)];
        if (mantissa == 0) continue;
        const std::int32_t shift = x.exponents[at(l)] - least;
        if (shift + width_of(mantissa) > spare) return {};
        const std::int64_t aligned = mantissa * (std::int64_t{1} << shift);
        sum += aligned;
        total += magnitude(aligned);
      }
      out.mantissas[o * span.inner + i] = sum;
      out.exponents[o * span.inner + i] = least;
      peak.see(total);
    }
  }
  return out;
}

FixedArray fixed_max(const FixedArray& x, std::int64_t axis) {
  const AxisSpan span = span_of(x.dims, axis);
  Dims dims = x.dims;
  dims[static_cast<std::size_t>(axis)] = 1;
  FixedArray out(dims);
  for (std::size_t o = 0; o < span.outer && span.length > 0; ++o) {
    for (std::size_t i = 0; i < span.inner; ++i) {
      const auto number = [&](std::size_t l) {
        const std::size_t at = (o * span.length + l) * span.inner + i;
        return Number{x.mantissas[at], x.exponents[at]};
      };
      Number best = number(0);
      for (std::size_t l = 1; l < span.length; ++l) {
        if (compare(number(l), best) > 0) best = number(l);
      }
      out.mantissas[o * span.inner + i] = best.mantissa;
      out.exponents[o * span.inner + i] = best.exponent;
    }
  }
  return out;
}

std::int64_t fixed_code(std::int64_t mantissa, std::int32_t exponent, std::int32_t scale_exponent, std::int64_t zero,
                        std::int64_t low, std::int64_t high) {
  if (mantissa == 0) return std::clamp(zero, low, high);
  const std::int32_t shift = exponent - scale_exponent;
  const auto size = static_cast<std::uint64_t>(magnitude(mantissa));
  constexpr int kBeyond = 40;  // bits of any code
  if (shift > 0 && shift + width_of(mantissa) > kBeyond) return mantissa > 0 ? high : low;
  const std::uint64_t scaled = shift >= 0 ? size << shift : round_shift(size, -shift, false);
  if (std::bit_width(scaled) > kBeyond) return mantissa > 0 ? high : low;
  const auto whole = static_cast<std::int64_t>(scaled);
  return std::clamp((mantissa < 0 ? -whole : whole) + zero, low, high);
}

FixedArray fixed_transpose(const FixedArray& x) {
  FixedArray out(x.dims);
  const std::size_t rank = x.dims.size();
  std::swap(out.dims[rank - 1], out.dims[rank - 2]);
  const auto rows = static_cast<std::size_t>(x.dims[rank - 2]), columns = static_cast<std::size_t>(x.dims[rank - 1]);
  const std::size_t matrix = rows * columns;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::size_t at = i % matrix, from = i / matrix * matrix + at % rows * columns + at / rows;
    out.mantissas[i] = x.mantissas[from];
    out.exponents[i] = x.exponents[from];
  }
  return out;
}

}  // namespace onnxfold
