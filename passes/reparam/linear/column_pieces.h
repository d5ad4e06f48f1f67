// A Linear's result cut into stretches of its columns by Split and Slice.
#pragma once

#include <optional>
#include <vector>

#include "analysis/structure/linear.h"
#include "passes/reparam/linear/linear_numbers.h"

namespace onnxfold {

struct ColumnPiece {
  Value* value = nullptr;  // an output of Split or Slice, or the Linear's result itself
  Stretch columns;
};

// All pieces of the Linear that makes `value`, in the order of their columns; pieces that nothing reads are left out.
// Nullopt when anything else reads the Linear's result, a cut is not along the last axis with step 1 and known bounds,
// or pieces overlap.
std::optional<std::vector<ColumnPiece>> column_pieces(const Linear& linear);

// The Linear of which `value` is a piece: behind one Split or Slice, or itself.
std::optional<Linear> cut_linear(const Value& value);

}  // namespace onnxfold
