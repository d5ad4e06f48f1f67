// Cast, CastLike.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"
#include "ir/numeric.h"

namespace onnxfold {
namespace {

struct CastOptions {
  DType to;
  bool saturate;
  std::string round_mode;  // of float8e8m0: up, down, nearest
};

// A power of two by the chosen direction; NaN stays.
double to_e8m0(double value, const CastOptions& options) {
  if (std::isnan(value)) return value;
  constexpr int kLowest = -127, kHighest = 127;
  const double magnitude = std::abs(value);
  if (std::isinf(value)) return options.saturate ? std::ldexp(1.0, kHighest) : std::nan("");
  if (magnitude == 0) return std::ldexp(1.0, kLowest);
  int exponent = 0;
  const double fraction = std::frexp(magnitude, &exponent) * 2;  // in [1, 2)
  --exponent;
  if (options.round_mode == "up" && fraction > 1) ++exponent;
  if (options.round_mode == "nearest" && fraction >= 1.5) ++exponent;
  if (exponent > kHighest) return options.saturate ? std::ldexp(1.0, kHighest) : std::nan("");
  return std::ldexp(1.0, std::max(exponent, kLowest));
}

double to_float_type(double value, const CastOptions& options) {
  // float4 has no NaN; the reference implementation makes it -0.
  if (options.to == DType::kFloat4E2M1 && std::isnan(value)) return -0.0;
  switch (options.to) {
    case DType::kFloat32:
    case DType::kFloat64:
    case DType::kFloat16:
    case DType::kBFloat16:
    case DType::kFloat4E2M1:
      return round_to(options.to, value);
    case DType::kFloat8E8M0:
      return to_e8m0(value, options);
    default:
      break;
  }
  if (std::isfinite(value)) {
    // Finite values in range round once; only the rest asks about saturation.
    const double saturated = round_to(options.to, value);
    const double largest =
        static_cast<double>(small_float_to_float(options.to, float_to_small_float(options.to, 1e30F)));
    if (std::abs(saturated) < largest || options.saturate) return saturated;
  }
  const float narrow = static_cast<float>(value);
  return static_cast<double>(
      small_float_to_float(options.to, float_to_small_float(options.to, narrow, options.saturate)));
}

// The value as an integer of T: through int64, wrapping; what no int64 holds becomes its lowest value, as on x86.
std::int64_t to_int64(double value) {
  constexpr double kEdge = 9223372036854775808.0;
  return value >= -kEdge && value < kEdge ? static_cast<std::int64_t>(value) : std::numeric_limits<std::int64_t>::min();
}

template <typename From>
std::int64_t whole(From value) {
  if constexpr (std::is_floating_point_v<From>)
    return to_int64(static_cast<double>(value));
  else
    return static_cast<std::int64_t>(value);
}

// Wraps an integer into the bits of a sub-byte type.
std::int64_t wrapped(std::int64_t value, int bits, bool is_signed_type) {
  const std::int64_t mask = (std::int64_t{1} << bits) - 1, sign = std::int64_t{1} << (bits - 1);
  const std::int64_t low = value & mask;
  return is_signed_type ? (low ^ sign) - sign : low;
}

template <typename From, typename To>
void convert(const Array& in, Array& out, const CastOptions& options) {
  const int bits = is_sub_byte(options.to) ? bit_width(options.to) : 0;
  const bool is_signed_to = is_signed(options.to);
  const bool plain = options.to == DType::kFloat64 || (options.to == DType::kFloat32 && std::is_same_v<To, float>);
  map_unary(in.data<From>(), out.mutable_data<To>(), in.size(), [&](From value) -> To {
    if constexpr (std::is_same_v<To, bool>) {
      return value != From{};
    } else if constexpr (std::is_floating_point_v<To>) {
      if (plain) return static_cast<To>(value);
      return static_cast<To>(to_float_type(static_cast<double>(value), options));
    } else if constexpr (std::is_same_v<From, std::uint64_t> && std::is_same_v<To, std::uint64_t>) {
      return value;
    } else {
      if constexpr (std::is_same_v<To, std::uint64_t> && std::is_floating_point_v<From>) {
        if (value >= static_cast<From>(9223372036854775808.0) && value < static_cast<From>(18446744073709551616.0))
          return static_cast<To>(value);
      }
      const std::int64_t number = whole(value);
      return static_cast<To>(bits == 0 ? number : wrapped(number, bits, is_signed_to));
    }
  });
}

// As numpy prints: shortest digits, with ".0" on whole numbers.
template <typename T>
std::string printed(T value, DType dtype) {
  if constexpr (std::is_same_v<T, bool>) {
    return value ? "True" : "False";
  } else if constexpr (std::is_floating_point_v<T>) {
    std::string text = dtype == DType::kFloat64 ? fmt::format("{}", static_cast<double>(value))
                                                : fmt::format("{}", static_cast<float>(value));
    if (text.find_first_of(".en") == std::string::npos) text += ".0";
    return text;
  } else {
    return fmt::format("{}", static_cast<std::int64_t>(value));
  }
}

Result<double> parsed(const KernelContext& ctx, const std::string& text) {
  std::string_view digits = text;
  while (!digits.empty() && digits.front() == ' ') digits.remove_prefix(1);
  while (!digits.empty() && digits.back() == ' ') digits.remove_suffix(1);
  if (!digits.empty() && digits.front() == '+') digits.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error == std::errc::result_out_of_range) return digits.front() == '-' ? -HUGE_VAL : HUGE_VAL;
  if (error != std::errc() || end != digits.data() + digits.size()) {
    return ctx.invalid(fmt::format("\"{}\" is not a number", text.substr(0, 40)));
  }
  return value;
}

Status from_strings(KernelContext& ctx, const CastOptions& options) {
  const Array in = ctx.in(0);
  if (options.to == DType::kString) {
    ctx.set(0, in);
    return {};
  }
  Array numbers = Array(DType::kFloat64, in.dims(), Precision::kFloat64);
  Array wholes = Array(DType::kInt64, in.dims(), Precision::kFloat64);
  bool integral = !is_float(options.to) && options.to != DType::kBool;
  for (std::int64_t i = 0; i < in.size(); ++i) {
    const std::string& text = in.data<std::string>()[i];
    const auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), wholes.mutable_data<std::int64_t>()[i]);
    integral = integral && error == std::errc() && end == text.data() + text.size();
    OF_ASSIGN(numbers.mutable_data<double>()[i], parsed(ctx, text));
  }
  Array& out = ctx.out(0, options.to, in.dims());
  const bool done = visit_real(out.storage(), [&]<typename To>(Tag<To>) {
    if (integral) {
      convert<std::int64_t, To>(wholes, out, options);
    } else {
      convert<double, To>(numbers, out, options);
    }
  });
  if (!done) return ctx.unsupported("cast of strings to this type");
  return {};
}

Status cast_to(KernelContext& ctx, const CastOptions& options) {
  const Array in = ctx.in(0);
  if (in.dtype() == DType::kString) return from_strings(ctx, options);
  bool done = false;
  if (options.to == DType::kString) {
    Array& out = ctx.out(0, DType::kString, in.dims());
    done = visit_real(in.storage(), [&]<typename From>(Tag<From>) {
      for (std::int64_t i = 0; i < in.size(); ++i)
        out.mutable_data<std::string>()[i] = printed(in.data<From>()[i], in.dtype());
    });
  } else if (in.dtype() == options.to) {
    ctx.set(0, in);
    return {};
  } else {
    Array& out = ctx.out(0, options.to, in.dims());
    visit_real(in.storage(), [&]<typename From>(Tag<From>) {
      done = visit_real(out.storage(), [&]<typename To>(Tag<To>) { convert<From, To>(in, out, options); });
    });
  }
  if (!done) return ctx.unsupported(fmt::format("cast from {} to {}", name(in.dtype()), name(options.to)));
  return {};
}

CastOptions options_of(const KernelContext& ctx, DType to) {
  return {to, ctx.attr("saturate", std::int64_t{1}) != 0, ctx.attr("round_mode", "up")};
}

Status cast(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  auto to = static_cast<DType>(ctx.attr("to", std::int64_t{0}));
  if (ctx.opset() < 6) {  // the name of the type
    std::string text = ctx.attr("to", "");
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    to = dtype_from_name(text).value_or(DType::kUndefined);
  }
  if (to == DType::kUndefined || name(to).empty()) return ctx.invalid("attribute \"to\" is no element type");
  return cast_to(ctx, options_of(ctx, to));
}

Status cast_like(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  return cast_to(ctx, options_of(ctx, ctx.in(1).dtype()));
}

}  // namespace

KernelRows cast_kernels() {
  static const KernelRow kRows[] = {{"Cast", 1, cast}, {"CastLike", 15, cast_like}};
  return kRows;
}

}  // namespace onnxfold
