// Blocks of integers that share a power of two: value = code * 2^exponent (BCT, arXiv 2304.01483, calls -exponent the
// shift).
//
// Codes are symmetric, -limit..limit with limit = 2^(bits-1) - 1, so that negating a block negates its codes; a block
// of zeros has exponent 0. Exponents lie in -126..127, where 2^exponent is a normal float32.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "ir/tensor.h"

namespace onnxfold {

struct ShiftFormat {
  int bits = 8;             // 2 to 8; stored in 4 bits up to 4, else in 8
  std::int64_t block = 64;  // numbers that share an exponent
  bool refine = true;       // take a smaller exponent, which clips, where the squared error falls

  int limit() const { return (1 << (bits - 1)) - 1; }
  int stored_bits() const { return bits <= 4 ? 4 : 8; }
};

// The least exponent at which limit * 2^exponent reaches `largest`; 0 for 0. REQUIRES: largest is finite, >= 0.
int shift_exponent(double largest, int limit);
// clamp(round_half_even(value / 2^exponent)).
int shift_code(double value, int exponent, int limit);
// Squared error of a value at a grid: `inverse` = 2^-exponent, `step` = 2^exponent. For loops over many values.
inline double shift_error(double value, double step, double inverse, double limit) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an even whole number
  const double scaled = value * inverse;
  const double bounded = scaled > limit ? limit : scaled < -limit ? -limit : scaled;
  const double miss = value - ((bounded + kRound) - kRound) * step;
  return miss * miss;
}

// How a constant is cut into blocks. It is seen as [outer, length, inner]; blocks run along `length`. Where a block is
// longer than that, it goes on in the next row: codes are then stored as [outer, inner, length] in one run.
struct ShiftLayout {
  std::int64_t outer = 1, length = 1, inner = 1;
  std::int64_t block = 1;

  // `dims` around `axis`; joined: everything from `axis` on counts as the length (kernels of convolutions).
  static ShiftLayout of(const Dims& dims, std::int64_t axis, bool joined, std::int64_t block);
  std::int64_t count() const { return outer * length * inner; }
  bool flat() const { return block > length; }
  std::int64_t blocks() const;
  // Position in the constant of number `i` of the stored order, and the block of the stored position.
  std::int64_t source(std::int64_t i) const;
};

struct ShiftCodes {
  std::vector<std::int8_t> codes;      // in stored order
  std::vector<std::int8_t> exponents;  // by block: [outer, ceil(length / block), inner], or in one run when flat
  double squared_error = 0, squares = 0;
};

// Errors: invalid_argument when the constant holds NaN or infinity; whatever loading it reports.
Result<ShiftCodes> quantize_shift_blocks(const Tensor& constant, const ShiftLayout& layout, const ShiftFormat& format);
// The numbers that the codes stand for, in the order of the constant.
std::vector<float> decode_shift_blocks(const ShiftCodes& codes, const ShiftLayout& layout);

// Bytes of codes and exponents as they are stored.
std::int64_t shift_bytes(const ShiftLayout& layout, const ShiftFormat& format);

// Codes and exponents as tensors (int4 or int8 in stored order; int8), made when they are asked for. Both come from one
// computation when they are asked for in turn.
struct ShiftTensors {
  Tensor codes, exponents;
};
ShiftTensors shift_tensors(const Tensor& constant, const ShiftLayout& layout, const ShiftFormat& format);

}  // namespace onnxfold
