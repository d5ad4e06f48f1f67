// What a rounded result can take in of the nodes behind it: a Relu or Clip is where codes end, and sums with and
// products by one number only say what the codes stand for.
#pragma once

#include <optional>
#include <vector>

#include "ir/graph.h"
#include "passes/quantize/activation_range.h"

namespace onnxfold {

// The range that a Relu or Clip leaves; no bound: infinity.
struct ClipRange {
  double low, high;
};

// Of a Relu, or a Clip of constant bounds, whatever they are.
std::optional<ClipRange> clip_bounds(const Node& node);

// end = scale * clip(value) + shift, made by `nodes`, of which each alone reads what the one before makes. scale > 0.
struct RoundedResult {
  Value* end = nullptr;
  std::optional<ClipRange> clip;  // in units of the value; holds 0
  double scale = 1, shift = 0;
  std::vector<Node*> nodes;

  bool affine() const { return scale != 1 || shift != 0; }
};

// All that can be taken in behind `value`, the most first, nothing at last. No Clip or Relu comes right behind one,
// unless it is the last: it would stay a node of its own.
std::vector<RoundedResult> rounded_results(Value& value);

// Codes of `value` are written with one grid and read with the other, as `end`.
struct RoundedGrids {
  Uint8Grid written, read;
};
// For numbers of `end` in the range that `seen` covers. None: the shift is no whole number of steps, nor nearly, or
// codes would lie beyond the Clip.
std::optional<RoundedGrids> rounded_grids(const RoundedResult& result, const Uint8Grid& seen);

}  // namespace onnxfold
