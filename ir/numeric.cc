#include "ir/numeric.h"

#include <array>
#include <bit>
#include <cmath>
#include <limits>

namespace onnxfold {
namespace {

// A binary floating format: sign, exponent and mantissa widths, and what its special codes mean.
struct Format {
  int exponent_bits;
  int mantissa_bits;
  int bias;
  enum class Special { kIeee, kFiniteNan, kUnsignedZero, kNone } special;
  // kIeee: top exponent is inf/NaN. kFiniteNan (E4M3FN): only S.1111.111 is NaN. kUnsignedZero (FNUZ): 0x80 is NaN.
  // kNone (E2M1): every code is a number.
};

constexpr Format kHalf{5, 10, 15, Format::Special::kIeee};
constexpr Format kBfloat{8, 7, 127, Format::Special::kIeee};
constexpr Format kE4M3FN{4, 3, 7, Format::Special::kFiniteNan};
constexpr Format kE4M3FNUZ{4, 3, 8, Format::Special::kUnsignedZero};
constexpr Format kE5M2{5, 2, 15, Format::Special::kIeee};
constexpr Format kE5M2FNUZ{5, 2, 16, Format::Special::kUnsignedZero};
constexpr Format kE2M1{2, 1, 1, Format::Special::kNone};

const Format& format_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return kHalf;
    case DType::kBFloat16:
      return kBfloat;
    case DType::kFloat8E4M3FN:
      return kE4M3FN;
    case DType::kFloat8E4M3FNUZ:
      return kE4M3FNUZ;
    case DType::kFloat8E5M2:
      return kE5M2;
    case DType::kFloat8E5M2FNUZ:
      return kE5M2FNUZ;
    default:
      return kE2M1;
  }
}

int sign_shift(const Format& format) { return format.exponent_bits + format.mantissa_bits; }

// Code of the largest finite magnitude.
std::uint32_t max_finite_code(const Format& format) {
  const std::uint32_t all = (1U << sign_shift(format)) - 1;
  switch (format.special) {
    case Format::Special::kIeee:
      return all - (1U << format.mantissa_bits);
    case Format::Special::kFiniteNan:
      return all - 1;
    default:
      return all;
  }
}

double decode(const Format& format, std::uint32_t code) {
  const std::uint32_t sign = code >> sign_shift(format);
  const std::uint32_t magnitude = code & ((1U << sign_shift(format)) - 1);
  const auto exponent = static_cast<int>(magnitude >> format.mantissa_bits);
  const std::uint32_t mantissa = magnitude & ((1U << format.mantissa_bits) - 1);
  if (format.special == Format::Special::kUnsignedZero && sign == 1 && magnitude == 0) return NAN;
  if (magnitude > max_finite_code(format)) {
    const bool infinite = format.special == Format::Special::kIeee && mantissa == 0;
    if (!infinite) return NAN;
    return sign != 0 ? -INFINITY : INFINITY;
  }
  const int power = (exponent == 0 ? 1 : exponent) - format.bias - format.mantissa_bits;
  const double value = std::ldexp(mantissa + (exponent == 0 ? 0.0 : 1 << format.mantissa_bits), power);
  return sign != 0 ? -value : value;
}

std::uint32_t nan_code(const Format& format, std::uint32_t sign) {
  switch (format.special) {
    case Format::Special::kIeee:
      return (sign << sign_shift(format)) | (max_finite_code(format) + 1) | (1U << (format.mantissa_bits - 1));
    case Format::Special::kFiniteNan:
      return (sign << sign_shift(format)) | (max_finite_code(format) + 1);
    case Format::Special::kUnsignedZero:
      return 1U << sign_shift(format);
    case Format::Special::kNone:
      return max_finite_code(format);  // E2M1 has no NaN: ONNX maps it to the largest value
  }
  return 0;
}

std::uint32_t overflow_code(const Format& format, std::uint32_t sign, bool saturate) {
  if (saturate || format.special == Format::Special::kNone) {
    return (sign << sign_shift(format)) | max_finite_code(format);
  }
  if (format.special == Format::Special::kIeee) return (sign << sign_shift(format)) | (max_finite_code(format) + 1);
  return nan_code(format, sign);
}

// Rounds to nearest even in one step: scales so that one unit in the last place is 1.0, then nearbyint.
std::uint32_t encode(const Format& format, double value, bool saturate) {
  const std::uint32_t sign = std::signbit(value) ? 1 : 0;
  if (std::isnan(value)) return nan_code(format, sign);
  const double magnitude = std::fabs(value);
  if (std::isinf(magnitude)) return overflow_code(format, sign, saturate);
  int exponent = magnitude == 0.0 ? -format.bias : std::ilogb(magnitude);
  if (exponent < 1 - format.bias) exponent = 1 - format.bias;  // subnormal range
  const double units = std::nearbyint(std::ldexp(magnitude, format.mantissa_bits - exponent));
  if (units >= std::ldexp(1.0, 24)) return overflow_code(format, sign, saturate);
  // units already carries the hidden bit, so adding the exponent field below it also handles rounding up to a new
  // binade.
  const std::int64_t code = static_cast<std::int64_t>(units) +
                            (static_cast<std::int64_t>(exponent + format.bias - 1) << format.mantissa_bits);
  if (code > static_cast<std::int64_t>(max_finite_code(format))) return overflow_code(format, sign, saturate);
  if (code == 0 && format.special == Format::Special::kUnsignedZero) return 0;
  return (sign << sign_shift(format)) | static_cast<std::uint32_t>(code);
}

double decode_e8m0(std::uint8_t bits) { return bits == 0xFF ? NAN : std::ldexp(1.0, static_cast<int>(bits) - 127); }

// E8M0 holds powers of two only; the nearest one (ties to the even exponent code), clamped to the range.
std::uint8_t encode_e8m0(double value, bool saturate) {
  if (std::isnan(value)) return 0xFF;
  const double magnitude = std::fabs(value);
  if (std::isinf(magnitude)) return saturate ? 0xFE : 0xFF;
  if (magnitude <= std::ldexp(1.0, -127)) return 0;
  const int exponent = std::ilogb(magnitude);
  const double fraction = std::ldexp(magnitude, -exponent);
  int code = exponent + 127;
  if (fraction > 1.5 || (fraction == 1.5)) ++code;
  if (code > 0xFE) return saturate ? 0xFE : 0xFF;
  return static_cast<std::uint8_t>(code < 0 ? 0 : code);
}

std::array<float, 65536> make_half_table() {
  std::array<float, 65536> table{};
  for (std::uint32_t code = 0; code < table.size(); ++code) {
    const double value = decode(kHalf, code);
    const std::uint32_t payload = ((code & 0x8000U) << 16) | 0x7F800000U | ((code & 0x3FFU) << 13);
    table[code] = std::isnan(value) ? std::bit_cast<float>(payload) : static_cast<float>(value);
  }
  return table;
}

}  // namespace

float half_to_float(std::uint16_t bits) {
  static const std::array<float, 65536> kTable = make_half_table();
  return kTable[bits];
}

std::uint16_t double_to_half(double value) { return static_cast<std::uint16_t>(encode(kHalf, value, false)); }
std::uint16_t float_to_half(float value) { return double_to_half(static_cast<double>(value)); }
std::uint16_t double_to_bfloat16(double value) { return static_cast<std::uint16_t>(encode(kBfloat, value, false)); }

std::uint16_t float_to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

float small_float_to_float(DType dtype, std::uint8_t bits) {
  if (dtype == DType::kFloat8E8M0) return static_cast<float>(decode_e8m0(bits));
  return static_cast<float>(decode(format_of(dtype), bits));
}

std::uint8_t float_to_small_float(DType dtype, float value, bool saturate) {
  if (dtype == DType::kFloat8E8M0) return encode_e8m0(static_cast<double>(value), saturate);
  return static_cast<std::uint8_t>(encode(format_of(dtype), static_cast<double>(value), saturate));
}

double round_to(DType dtype, double value) {
  switch (dtype) {
    case DType::kFloat64:
      return value;
    case DType::kFloat32:
      return static_cast<double>(static_cast<float>(value));
    case DType::kFloat8E8M0:
      return decode_e8m0(encode_e8m0(value, true));
    case DType::kFloat16:
    case DType::kBFloat16:
      return decode(format_of(dtype), encode(format_of(dtype), value, false));
    default:
      // An infinity that is there already stays one where the type has it; finite values saturate.
      if (!is_float(dtype)) return value;
      return decode(format_of(dtype), encode(format_of(dtype), value, !std::isinf(value)));
  }
}

}  // namespace onnxfold
