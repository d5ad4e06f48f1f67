// Two models on the same seeded random inputs.
#pragma once

#include <cstdint>
#include <string>

#include "exec/executor.h"
#include "ir/model.h"

namespace onnxfold::test {

// Normal floats, integers 0 to 3, booleans. Dynamic dimensions get small sizes; `variant` selects among them, and the
// same symbol has the same size everywhere.
Feeds random_feeds(const Model& model, std::uint64_t seed, int variant);

// Empty when every output agrees in type, shape and value within `tolerance` times the output's largest magnitude (0:
// same numbers, NaN equal to NaN); otherwise what differs, or which of the two failed to run.
std::string difference(const Model& before, const Model& after, Precision precision, double tolerance,
                       std::uint64_t seed = 0);

}  // namespace onnxfold::test
