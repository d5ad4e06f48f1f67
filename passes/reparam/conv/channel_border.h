// A map whose border holds one number per channel, and the map inside it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

struct ChannelBorder {
  Value* inner = nullptr;                // [N, C, ...], the map without its border
  std::vector<std::int64_t> begin, end;  // width of the border, one per spatial axis; not all zero
  std::vector<double> numbers;           // one per channel
};

// Follows from `value` upwards what exporters make of such a border: Concat with constants or with constants that
// Expand widens, and Pad whose border ScatterND overwrites (whole rows by number, or element by element), through
// Transposes. The numbers of all sides must agree. Nullopt where there is no border, or where it is not known to be
// written completely and nothing inside with it. Needs inferred types.
std::optional<ChannelBorder> channel_border(Value& value);

}  // namespace onnxfold
