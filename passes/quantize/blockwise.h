// Blockwise quantization of one weight: codes, scales and zero points, for every method that decides block by block.
//
// A method is a BlockRule: it chooses the scale and the smallest value of each block. The engine then rounds the scales
// to the form in which they are stored, derives zero points, and rounds the values to codes:
//   symmetric:  code = clamp(round_half_away(v * (1 / scale) + middle));  no zero point is stored
//   asymmetric: zero = clamp(round_half_away(-low / scale));  code = clamp(round_half_away(v * (1 / scale) + zero))
// A block of zeros has scale 0 and the middle code. Dequantized value: (code - zero) * scale, zero = middle if
// symmetric. The codes do not depend on the machine or the number of threads: every block is a chain of single
// float32 operations in a fixed order, whatever the width of the vectors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "ir/tensor.h"

namespace onnxfold {

// How scales are stored. What is not the type of the scales is decoded by standard nodes that runtimes fold at load.
enum class ScaleForm {
  kFull,        // in the type the operator wants
  kFloat16,     // float16, then Cast
  kInt8,        // int8 per block and a float32 per group of blocks (scale_group): Cast, Mul, Reshape
  kPowerOfTwo,  // int8 exponents: Cast, Pow; scales are positive
};

struct BlockFormat {
  int bits = 4;             // 2, 3 (stored in 4 bits), 4 or 8
  std::int64_t block = 32;  // elements per scale: a power of two from 16 to 256; 0: a whole row
  bool symmetric = true;
  ScaleForm scales = ScaleForm::kFull;
  bool float_zeros = false;  // REQUIRES: not symmetric. Zero points are numbers of the scales' type, not codes

  int stored_bits() const { return bits == 3 ? 4 : bits; }
  std::int64_t length(std::int64_t cols) const { return block == 0 ? std::max<std::int64_t>(cols, 1) : block; }
};

// A weight seen as [rows / inner, cols, inner]: row r is the run of `cols` elements at [r / inner, :, r % inner], and
// blocks run along rows. For a MatMul weight [K, N] a row is a column of the matrix, so inner = N; inner = 1 where rows
// lie one after the other. REQUIRES: inner divides rows.
struct BlockShape {
  std::int64_t rows = 0, cols = 0;
  std::int64_t inner = 1;
};

struct BlockCodes {
  std::int64_t rows = 0, blocks = 0, block = 0, cols = 0;
  std::vector<std::uint8_t> codes;  // [rows, blocks * block]; past cols: never read
  std::vector<float> scales;        // [rows, blocks], exactly what the stored form decodes to
  std::vector<std::uint8_t> zeros;  // [rows, blocks]; empty when symmetric or float
  std::vector<float> float_zeros;   // [rows, blocks] when the format asks for them
};

// The codes that a format allows. 3 bits are stored in 4, symmetric ones around 8.
struct BlockGrid {
  float low = 0, high = 15, middle = 8;  // middle: the zero point of symmetric blocks
  bool symmetric = true;
  bool float_zeros = false;
  bool powers = false;  // scales are positive powers of two; a rule that does not choose one is rounded up
  int bits = 4;

  explicit BlockGrid(const BlockFormat& format);
};

// Blocks lie side by side: values[i * kLanes + lane] is element i of the block `lane`.
inline constexpr std::int64_t kLanes = 64;

// Chooses a scale for each of kLanes blocks of `count` finite values, and for asymmetric grids the value that code 0
// stands for (-zero * scale; it is rounded to a zero point later). `importance`: what a squared error of each of the
// `count` elements costs, for all lanes; null: all the same. Rules may ignore it.
using BlockRule = void (*)(const float* values, std::int64_t count, const float* importance, const BlockGrid& grid,
                           float* scales, float* lows);

// Rules of the methods, each in the file named after its pass.
void choose_rtn(const float* values, std::int64_t count, const float* importance, const BlockGrid& grid, float* scales,
                float* lows);
void choose_rtn_search(const float* values, std::int64_t count, const float* importance, const BlockGrid& grid,
                       float* scales, float* lows);
void choose_hqq(const float* values, std::int64_t count, const float* importance, const BlockGrid& grid, float* scales,
                float* lows);

// Blocks that share a float32 in ScaleForm::kInt8 when a row has `blocks`: a divisor near 16, else 16 (padded).
std::int64_t scale_group(std::int64_t blocks);

// Rounds the scales of one row to what the form can hold: `scales` has a row's blocks, `type` is what the operator
// wants (float32, float16, bfloat16). Float16 saturates. For methods that choose scales by other means than a rule.
void round_scales(float* scales, std::int64_t blocks, ScaleForm form, DType type);

// `importance`: for the rule, of each of the weight's columns; empty: all the same. Errors: invalid_argument when the
// weight holds NaN or infinity, or numbers so small that all scales become 0 in their form; whatever loading it
// reports. Mapped weights are read in ranges whose pages are given back at once.
Result<BlockCodes> quantize_blocks(const Tensor& weight, const BlockShape& shape, const BlockFormat& format,
                                   DType scale_type, BlockRule rule = choose_rtn,
                                   std::span<const float> importance = {});

// Makes the codes of a weight when one of its parts is first asked for, and keeps them until `parts` different ones
// were taken, so that a writer that asks for codes, scales and zero points in turn computes them once and holds one
// weight at a time. `make` is called again when a part is asked for again: it must be a pure function. Errors: those of
// `make`; invalid_argument when a scale does not fit into the format's float16.
class LazyBlocks {
 public:
  using Maker = std::function<Result<BlockCodes>()>;
  LazyBlocks(BlockShape shape, BlockFormat format, int parts, Maker make);
  // Part number `part` is about to be made from the result.
  Result<std::shared_ptr<const BlockCodes>> take(int part);

  const BlockShape& shape() const { return shape_; }
  const BlockFormat& format() const { return format_; }
  std::int64_t blocks() const { return (shape_.cols + length() - 1) / length(); }
  std::int64_t length() const { return format_.length(shape_.cols); }

 private:
  struct State;
  BlockShape shape_;
  BlockFormat format_;
  std::shared_ptr<State> state_;
};

}  // namespace onnxfold
