// GPTQ (Frantar et al. 2022, arXiv 2210.17323) on one weight: least ||X (W - Q)|| for codes Q in blocks.
//
// Columns are rounded one after the other; each error is spread over the columns still to come, with the upper factor U
// of (H + damping)^-1, H = X'X. Act-order over whole blocks: the blocks of columns with the largest mean diagonal of H
// come first, and inside a block the largest columns, so nothing has to be stored about the order. Scales are chosen
// when the sweep reaches a block, from the values as they are then: weighted by 1 / U_ii^2 (usearch), or by the loss of
// sweeping the block (sweep). Coordinate descent afterwards: scale by scale and code by code, each to its best value
// given all others under H. Rows of the weight are its outputs. Same bits at any thread count.
#pragma once

#include <vector>

#include "analysis/algebra/inverse_factor.h"
#include "analysis/algebra/matrix.h"
#include "analysis/calibrate/gram.h"
#include "passes/quantize/blockwise.h"

namespace onnxfold {

struct GptqSettings {
  BlockFormat format;
  DType scale_type = DType::kFloat32;  // what the operator reads
  bool sweep = false;                  // judge scales by sweeping the block
  int descent = 0;                     // rounds of coordinate descent
};

// The order in which a sweep takes the columns.
struct SweepOrder {
  struct Block {
    std::int64_t first = 0, count = 0;  // positions in `columns`
    std::int64_t index = 0;             // of the block in the weight
  };
  std::vector<std::int64_t> columns;  // position to column
  std::vector<Block> blocks;
};
SweepOrder sweep_order(const Matrix& gram, std::int64_t block);

// The inputs of a group of weights, in the order of the sweep.
struct SweepInputs {
  SweepOrder order;
  Matrix gram;           // H, damping included
  InverseFactor factor;  // of it
};
// Errors: those of inverse_factor.
Result<SweepInputs> sweep_inputs(const Matrix& gram, std::int64_t block, double damping);

// `weight`: [rows, cols] in the weight's own order. Errors: invalid_argument when it holds NaN or infinity.
Result<BlockCodes> gptq_sweep(const FloatRows& weight, const SweepInputs& inputs, const GptqSettings& settings);

// What codes stand for, [rows, cols].
FloatRows dequantized(const BlockCodes& codes, const BlockFormat& format);

}  // namespace onnxfold
