// How much rank each group of tied weights gets for its corrections.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ir/result.h"

namespace onnxfold {

// A weight [in, out] that `loops` layers share, each with a correction of one rank: costs
// (in out + loops rank (in + out)) bytes_each and leaves an error of the squares behind that rank.
struct CorrectionCurve {
  std::int64_t in = 0, out = 0, loops = 0;
  std::int64_t bytes_each = 4;        // bytes of an element
  std::vector<double> error_squares;  // by singular direction, summed over the loops, falling
  double energy = 0;                  // what counts as an error of 1

  std::int64_t bytes(std::int64_t rank) const { return (in * out + loops * rank * (in + out)) * bytes_each; }
  std::int64_t untied_bytes() const { return in * out * loops * bytes_each; }
  // The least rank that saves nothing: (loops - 1) / loops * in out / (in + out), rounded up.
  std::int64_t break_even() const;
  // The highest rank that is worth storing: below break-even and at most min(in, out).
  std::int64_t most() const;
};

// Of all of them.
std::int64_t untied_bytes(const std::vector<CorrectionCurve>& curves);

// `rank`, or what the last of the rules that match the role of a group says: "GLOB=RANK" (ffn.*=32); at most the full
// rank. Errors: invalid_argument for a rule that is none.
Result<std::vector<std::int64_t>> corrections_by_role(const std::vector<CorrectionCurve>& curves,
                                                      const std::vector<std::string>& roles, std::int64_t rank,
                                                      const std::vector<std::string>& rules);

// A rank for each group, of at most `budget` bytes in all; zeros when even these are more.
// The same share of bytes for every group.
std::vector<std::int64_t> uniform_corrections(const std::vector<CorrectionCurve>& curves, std::int64_t budget);
// Bytes go where they take away the most error, relative to the energy of each group; no rank falls below `least` of
// the uniform one: the error of a layer's own output says little of what a starved layer does to the model.
std::vector<std::int64_t> corrections_by_error(const std::vector<CorrectionCurve>& curves, std::int64_t budget,
                                               double least);

}  // namespace onnxfold
