// Nodes that compute y = scale[c] x + shift[c] over channel axis 1: BatchNormalization, and Add, Sub, Mul, Div, Neg
// with constants.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

struct ChannelAffine {
  Value* input = nullptr;
  std::vector<double> scale, shift;  // one per channel
};

// Channels of a value of known rank (two or more) whose axis 1 has a known length of at least one.
std::optional<std::int64_t> channels_of(const Value& value);

// `node` as such; nullopt when it is not, when its numbers are not constant and finite, when they vary along other
// axes, or when they would widen the input.
std::optional<ChannelAffine> channel_affine(const Node& node);

// What scale, then shift of `inner` followed by those of `outer` come to: outer(inner(x)).
void compose(ChannelAffine& inner, const ChannelAffine& outer);

}  // namespace onnxfold
