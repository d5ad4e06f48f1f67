// The inner loops of GPTQ and of its refinement, for 64 rows of a weight at a time; chosen for the machine at run time.
//
// A tile holds columns [0, width) of 64 rows: values[column * 64 + row]. Dequantized value: (code - zero) * scale with
// the row's scale and zero point.
#pragma once

#include <cstdint>

namespace onnxfold {

inline constexpr std::int64_t kSweepRows = 64;

// Codes that a format allows. Symmetric ones have the fixed zero point `middle`.
struct SweepGrid {
  float low = 0, high = 15, middle = 8;
  bool symmetric = true;
  int bits = 4;
};

// Part of a tile's columns that shares scales: columns [first, first + count), of `width` that the tile has.
struct SweepBlock {
  std::int64_t first = 0, count = 0, width = 0;
  // Row-major, element (0, 0) of the tile's diagonal block of U (sweep) or H (descent).
  const float* matrix = nullptr;
  std::int64_t stride = 0;
};

// usearch: the scales and zero points with the least sum over the block of (error / U_ii)^2.
// REQUIRES: block.matrix is of U.
void search_scales(const float* values, const SweepBlock& block, const SweepGrid& grid, float* scales, float* zeros);
// sweep: of the same candidates and what search_scales chose, those with the least GPTQ loss of the block, errors
// carried on inside it.
void search_scales_by_sweep(const float* values, const SweepBlock& block, const SweepGrid& grid, float* scales,
                            float* zeros);
// Rounds the columns of the block one after the other; every error is made good in the columns after it, to the end of
// the tile. codes, errors: like values ([width][64]), columns of the block written. errors: (value - rounded) / U_ii.
void sweep_columns(float* values, const SweepBlock& block, const SweepGrid& grid, const float* scales,
                   const float* zeros, float* codes, float* errors);
// One round of coordinate descent on the block: the scale with the least loss for the codes there are (`round_scale`
// stores it in its own type), then every code in turn. `gradients` = (target - weight) H, kept up to date inside the
// tile; `codes` is updated, `moved` = old - new dequantized values of the block's columns. REQUIRES: block.matrix is of
// H.
void descend_columns(float* gradients, const SweepBlock& block, const SweepGrid& grid, float* scales,
                     const float* zeros, bool refit, float (*round_scale)(float), float* codes, float* moved);

}  // namespace onnxfold
