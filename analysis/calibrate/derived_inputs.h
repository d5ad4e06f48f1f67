// Inputs that follow from the others: attention masks, token types, positions.
#pragma once

#include "exec/executor.h"
#include "ir/graph.h"

namespace onnxfold {

enum class InputRole { kPlain, kMask, kTokenType, kPosition, kLength };

// By name and type: "attention_mask", "token_type_ids", "segment_ids", "position_ids", "input_lengths" (at most one
// axis)...
InputRole role_of(const Value& input);

// A mask, token types or positions can be made when some other input [batch, length] is there.
bool can_derive(const Value& input);
// Ones, zeros or 0..length-1 in the batch and length of the first integer input of `feeds` with two axes.
// Errors: invalid_argument when there is none.
Result<Datum> derive_input(const Value& input, const Feeds& feeds, std::size_t batch);

}  // namespace onnxfold
