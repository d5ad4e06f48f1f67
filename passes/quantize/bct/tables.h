// Look-up tables in the place of functions: what integer arithmetic reads instead of computing GELU, exp and 1 / sqrt.
//
// Each emits standard operators (QuantizeLinear, Gather, DequantizeLinear, sums and products), whose numbers are all
// code * 2^exponent with short codes, so that float32 computes them exactly and integer arithmetic can stand for it.
#pragma once

#include "passes/quantize/bct/bct_writer.h"
#include "passes/quantize/bct/intermediates.h"

namespace onnxfold {

// The codes of `output` on its grid, as a function of codes of the input on its own: a table for each pair of
// exponents, read at row(channel) * 2^bits + code. REQUIRES: in.bits and out.bits <= 8, and both grids have one
// exponent or as many as the other. Errors: those of running the function's nodes.
struct RoundedInput {
  Value* codes = nullptr;
  Value* decoded = nullptr;  // what the function's nodes read
};
Result<Value*> emit_function_table(BctWriter& writer, const FunctionSite& site, const RoundedInput& input,
                                   const Grid& in, const Grid& out);

// Softmax: d = max - x is rounded to `bits` bits of step 2^(4 - bits), beyond which exp is 0 here; E = round(32767
// exp(-d)) from a table; y = E / sum(E). Rows that hide everything but one position give exactly 1 there.
Value* emit_softmax_table(BctWriter& writer, const SoftmaxSite& site, int bits);

// LayerNorm and RMSNorm: mean and deviations from sums of codes; 1 / sqrt(sum of squares / width + epsilon) from a
// table over segments of a factor 4, each of 2^bits - 2^(bits-2) steps; times gain, plus bias.
struct NormFormat {
  int bits = 8;
  std::int64_t block = 64;  // channels that share an exponent
  double most_squares = 1;  // largest sum of squares that the table tells apart
};
Value* emit_norm_table(BctWriter& writer, const Norm& norm, const NormRanges& ranges, const NormFormat& format);

// `value` in two to `bits` significant bits.
double short_number(double value, int bits);

}  // namespace onnxfold
