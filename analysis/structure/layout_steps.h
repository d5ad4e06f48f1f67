// One operator's effect on a HeadLayout. Internal to analysis/structure.
#pragma once

#include "analysis/structure/head_layout.h"

namespace onnxfold::layout_steps {

using Factors = std::vector<AxisFactor>;
using Step = std::optional<HeadLayout>;

// The axis counted from the front; none when it is out of range.
std::optional<std::size_t> axis_at(std::int64_t axis, std::size_t rank);
// Number of entries of an axis; 0 when unknown.
std::int64_t extent(const Factors& factors);
bool is_channel(const Factors& factors);

// Reshape and Flatten.
Step reshape(const HeadLayout& layout, const Node& node, ShapeArithmetic& numbers);
// Those that take a part of an axis.
Step slice(HeadLayout layout, const Node& node, ShapeArithmetic& numbers);
Step split(HeadLayout layout, const Node& node, const Value& output, ShapeArithmetic& numbers);
Step gather(HeadLayout layout, const Node& node, ShapeArithmetic& numbers);
// Those that repeat one: to `dims`, or as Tile says.
Step repeat(HeadLayout layout, const std::vector<std::optional<std::int64_t>>& dims);
Step tile(HeadLayout layout, const Node& node, ShapeArithmetic& numbers);

}  // namespace onnxfold::layout_steps
