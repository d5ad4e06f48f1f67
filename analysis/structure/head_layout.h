// HeadLayout: where the columns of a Linear's output are after Reshape, Transpose, Split, Slice, Gather, Expand...
//
// Every axis of a value is a row-major product of factors. A channel factor of `size` and `stride` counts columns of
// the Linear: its index i adds i * stride to the column. A factor with stride 0 repeats (repeat-kv of grouped queries).
// Other factors count batch and sequence positions. So [B, S, 3 * heads * width] -> Reshape [B, S, 3, heads, width] ->
// Transpose [3, B, heads, S, width] -> Gather 1 is, at its end, [B, (heads, stride width), S, (width, stride 1)] with
// offset heads * width: all that there is to know about a fused projection, whatever its spelling.
#pragma once

#include <optional>
#include <vector>

#include "analysis/structure/shape_arithmetic.h"
#include "ir/graph.h"

namespace onnxfold {

struct AxisFactor {
  std::int64_t size = 0;  // 0: unknown
  bool channel = false;
  std::int64_t stride = 0;  // in columns; 0 of a channel factor: repeats
};

struct HeadLayout {
  std::vector<std::vector<AxisFactor>> axes;
  std::int64_t offset = 0;

  // Of a value whose axis `channel_axis` (negative counts from the end) has `columns` channels.
  static HeadLayout of(const Value& value, std::int64_t columns, int channel_axis = -1);
};

// Is `node` an operator that moves elements without changing them (Transpose, Reshape, Split, Slice, Gather,
// Expand...)?
bool moves_elements(const Node& node);
// The layout of output `output` of such a node (or of any element-wise one: unchanged). Nullopt when the columns cannot
// be followed.
std::optional<HeadLayout> layout_after(const HeadLayout& layout, const Node& node, const Value& output,
                                       ShapeArithmetic& numbers);

// Of the product of probabilities and v: q's positions and heads, and v's width; its columns are counted head by head.
HeadLayout context_layout(const HeadLayout& q, std::int64_t width);

// Sizes of the axes that hold channels.
ShapeArithmetic::Extents channel_extents(const HeadLayout& layout);

// What the layout says when axis `feature_axis` (negative counts from the end) is the width of a head.
struct HeadColumns {
  std::int64_t offset = 0, heads = 1, head_stride = 0, width = 0;
  std::int64_t element_stride = 1;
  std::int64_t repeats = 1;  // every head appears that many times, side by side
};
std::optional<HeadColumns> head_columns(const HeadLayout& layout, int feature_axis);

}  // namespace onnxfold
