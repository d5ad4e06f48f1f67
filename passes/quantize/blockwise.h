// Round-to-nearest quantization of blocks: codes, scales and zero points of one weight.
//
// Rules bit-equal to ONNX Runtime's default quantizer (MLAS q4_dq.cpp), per block of values v:
//   symmetric:  m = the value of largest magnitude, with its sign;  scale = m / -2^(bits-1), rounded to its type;
//               code = clamp(round_half_away(v * (1 / scale) + 2^(bits-1)), 0, 2^bits - 1);  no zero point is stored
//   asymmetric: lo = min(v, 0), hi = max(v, 0);  scale = (hi - lo) / (2^bits - 1), rounded to its type;
//               zero = clamp(round_half_away(-lo / scale), 0, 2^bits - 1);  code = clamp(round_half_away(v / scale +
//               zero))
// A block of zeros has scale 0 and the middle code. Dequantized value: (code - zero) * scale, zero = 2^(bits-1) if
// symmetric.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ir/tensor.h"

namespace onnxfold {

struct BlockFormat {
  int bits = 4;             // 4 or 8
  std::int64_t block = 32;  // elements per scale: a power of two from 16 to 256
  bool symmetric = true;
};

// A weight seen as `rows` independent rows of `cols` elements, blocks running along a row. For a MatMul weight [K, N] a
// row is a column of the matrix: transposed = true.
struct BlockShape {
  std::int64_t rows = 0, cols = 0;
  bool transposed = false;  // stored as [cols, rows]
};

struct BlockCodes {
  std::int64_t rows = 0, blocks = 0, block = 0, cols = 0;
  std::vector<std::uint8_t> codes;  // [rows, blocks * block]; past cols: never read
  std::vector<float> scales;        // [rows, blocks]
  std::vector<std::uint8_t> zeros;  // [rows, blocks]; empty when symmetric
};

// `scale_type`: float32, float16 or bfloat16; scales are rounded to it before they are used. Errors: invalid_argument
// when the weight holds NaN or infinity; whatever loading it reports.
Result<BlockCodes> quantize_blocks(const Tensor& weight, const BlockShape& shape, const BlockFormat& format,
                                   DType scale_type);

// Quantizes a weight when one of its parts is first asked for, and keeps the result until every part was taken once, so
// that a writer that asks for codes, scales and zero points in turn computes them once and holds one weight at a time.
class LazyBlocks {
 public:
  LazyBlocks(Tensor weight, BlockShape shape, BlockFormat format, DType scale_type, int parts);
  // Part number `part` is about to be made from the result.
  Result<std::shared_ptr<const BlockCodes>> take(int part);

  const BlockShape& shape() const { return shape_; }
  const BlockFormat& format() const { return format_; }
  DType scale_type() const { return scale_type_; }
  std::int64_t blocks() const { return (shape_.cols + format_.block - 1) / format_.block; }

 private:
  struct State;
  Tensor weight_;
  BlockShape shape_;
  BlockFormat format_;
  DType scale_type_;
  std::shared_ptr<State> state_;
};

}  // namespace onnxfold
