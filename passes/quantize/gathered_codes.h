// Rows of a table that are gathered as codes and decoded behind: Cast(Gather(codes, i)) * Gather(scales, i).
#pragma once

#include <optional>

#include "ir/graph.h"

namespace onnxfold {

struct GatheredCodes {
  Value* codes = nullptr;   // int8 or uint8 constant, [rows, columns]
  Value* scales = nullptr;  // float32 constant, [rows, 1]
  Value* at = nullptr;      // which rows
};

// What `mul` decodes: both Gathers read rows at the same place, nobody else reads what is between.
std::optional<GatheredCodes> gathered_codes(const Node& mul);

// The float32 table that they stand for, made when it is asked for.
Tensor decoded_rows(const GatheredCodes& codes);

}  // namespace onnxfold
