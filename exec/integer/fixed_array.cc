#include "exec/integer/fixed_array.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "exec/dispatch.h"

namespace onnxfold {
namespace {

constexpr int kFloatBits = 24;

}  // namespace

std::optional<FixedArray> fixed_from(const Array& floats) {
  FixedArray fixed(floats.dims());
  const float* data = floats.data<float>();
  for (std::size_t i = 0; i < fixed.size(); ++i) {
    const float x = data[i];
    if (std::isnan(x)) return {};
    if (std::isinf(x)) {
      fixed.mantissas[i] = x > 0 ? 1 : -1;
      fixed.exponents[i] = kInfiniteExponent;
    } else if (x != 0) {
      int power = 0;
      auto mantissa = static_cast<std::int64_t>(std::ldexp(std::frexp(x, &power), kFloatBits));
      const int zeros = std::countr_zero(static_cast<std::uint64_t>(mantissa));
      fixed.mantissas[i] = mantissa / (std::int64_t{1} << zeros);
      fixed.exponents[i] = power - kFloatBits + zeros;
    }
  }
  return fixed;
}

FixedArray fixed_from_integers(const Array& integers) {
  FixedArray fixed(integers.dims());
  visit_real(integers.storage(), [&]<typename T>(Tag<T>) {
    if constexpr (!std::is_floating_point_v<T>) {
      const T* data = integers.data<T>();
      for (std::size_t i = 0; i < fixed.size(); ++i) fixed.mantissas[i] = static_cast<std::int64_t>(data[i]);
    }
  });
  return fixed;
}

Array to_floats(const FixedArray& fixed) {
  Array floats(DType::kFloat32, fixed.dims, Precision::kFloat32);
  float* data = floats.mutable_data<float>();
  for (std::size_t i = 0; i < fixed.size(); ++i) {
    // Rounded to 24 bits as an integer first, so that the conversion rounds nothing twice.
    std::int64_t mantissa = fixed.mantissas[i];
    std::int32_t exponent = fixed.exponents[i];
    const std::uint64_t magnitude =
        mantissa < 0 ? 0 - static_cast<std::uint64_t>(mantissa) : static_cast<std::uint64_t>(mantissa);
    const int surplus = std::bit_width(magnitude) - kFloatBits;
    if (surplus > 0) {
      const std::uint64_t unit = std::uint64_t{1} << surplus, half = unit / 2, rest = magnitude & (unit - 1);
      std::uint64_t kept = magnitude >> surplus;
      if (rest > half || (rest == half && kept % 2 == 1)) ++kept;
      mantissa = mantissa < 0 ? -static_cast<std::int64_t>(kept) : static_cast<std::int64_t>(kept);
      exponent += surplus;
    }
    data[i] = static_cast<float>(std::ldexp(static_cast<double>(mantissa), exponent));
  }
  return floats;
}

Array mantissa_array(const FixedArray& fixed) {
  Array array(DType::kInt64, fixed.dims, Precision::kFloat32);
  std::copy(fixed.mantissas.begin(), fixed.mantissas.end(), array.mutable_data<std::int64_t>());
  return array;
}

Array exponent_array(const FixedArray& fixed) {
  Array array(DType::kInt32, fixed.dims, Precision::kFloat32);
  std::copy(fixed.exponents.begin(), fixed.exponents.end(), array.mutable_data<std::int32_t>());
  return array;
}

FixedArray fixed_from_parts(const Array& mantissas, const Array& exponents) {
  FixedArray fixed(mantissas.dims());
  std::copy_n(mantissas.data<std::int64_t>(), mantissas.size(), fixed.mantissas.begin());
  std::copy_n(exponents.data<std::int32_t>(), exponents.size(), fixed.exponents.begin());
  return fixed;
}

}  // namespace onnxfold
