// GroupNorm as exporters write it: Reshape to [N, groups, -1], InstanceNormalization, Reshape back, Mul, Add.
#pragma once

#include <optional>

#include "ir/graph.h"

namespace onnxfold {

struct GroupNormChain {
  Value* input = nullptr;   // [N, C, ...]
  Value* output = nullptr;  // after gain and bias
  std::int64_t groups = 0;
  float epsilon = 0;
  Tensor gain, bias;  // [C], what InstanceNormalization has per group multiplied in
};

// The chain around this InstanceNormalization. None when it is no such chain: an inner value has another reader, the
// second Reshape gives another shape than the input's, a constant is missing. Errors: those of reading constants.
Result<std::optional<GroupNormChain>> group_norm_chain(Node& instance_norm);

}  // namespace onnxfold
