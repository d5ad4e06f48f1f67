// FixedArray: an array of integers with a power of two each, value = mantissa * 2^exponent. What float32 arrays are
// when arithmetic is done with integers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "exec/array.h"

namespace onnxfold {

// Exponents from here on stand for infinity: mantissa 1 or -1.
constexpr std::int32_t kInfiniteExponent = 4096;

struct FixedArray {
  Dims dims;
  std::vector<std::int64_t> mantissas;
  std::vector<std::int32_t> exponents;

  FixedArray() = default;
  explicit FixedArray(Dims shape) : dims(std::move(shape)) {
    const auto count = static_cast<std::size_t>(element_count(dims));
    mantissas.resize(count);
    exponents.resize(count);
  }
  std::size_t size() const { return mantissas.size(); }
};

// Every float is mantissa * 2^exponent; mantissas come out odd (0 has exponent 0). None for NaN.
std::optional<FixedArray> fixed_from(const Array& floats);
// Integers and bools, as they are. REQUIRES: an integer or bool array.
FixedArray fixed_from_integers(const Array& integers);
// Rounds once where a mantissa has more than 24 bits.
Array to_floats(const FixedArray& fixed);

// What an operator that only moves elements does to a FixedArray: `move` runs it on int64 and on int32 arrays.
using MoveFn = std::function<Result<Array>(Array elements)>;
Array mantissa_array(const FixedArray& fixed);
Array exponent_array(const FixedArray& fixed);
FixedArray fixed_from_parts(const Array& mantissas, const Array& exponents);

}  // namespace onnxfold
