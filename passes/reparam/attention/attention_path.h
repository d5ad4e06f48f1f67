// Questions about an Attention (analysis/structure/attention.h) before something in it is moved.
#pragma once

#include <string>

#include "analysis/structure/attention.h"

namespace onnxfold {

// Are all readers of `value` among `nodes`, but for those that look at its shape only?
bool read_by(const Value& value, const std::vector<Node*>& nodes);

// Nothing but the attention reads what is between the projection's Linear and its operand, and only operators that
// treat all positions alike stand there (no norm, rotary embedding, cache or learned extra positions). Otherwise `why`
// says what stands in the way. REQUIRES: projection.linear.
bool plain_projection(const Attention& attention, const Projection& projection, std::string& why);

// Adding a number to all scores of a row leaves the probabilities as they are: between product and Softmax there are
// only known factors, masks that are added or hide by -1e4 or less, casts and reshapes; nothing else reads the scores.
bool shift_invariant(const Attention& attention, std::string& why);

// Every row of probabilities sums to 1 (or is NaN): Softmax, then the product with the values, no NaN guard between;
// of fused operators those without mask.
bool rows_sum_to_one(const Attention& attention, std::string& why);

// The context reaches the output Linear unchanged and nothing else reads it on the way.
bool plain_output(const Attention& attention, std::string& why);

}  // namespace onnxfold
