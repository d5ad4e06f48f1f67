// ShapeArithmetic: what is known of small tensors that a graph computes from shapes and constants.
//
// Exporters write target shapes of Reshape and Expand and the scale of attention as Shape, Gather, Slice, Concat,
// Sqrt... Dimensions come from the types of values (run shape inference first); what a type does not tell stays unknown
// while the elements beside it are still given.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

class ShapeArithmetic {
 public:
  using Elements = std::vector<std::optional<double>>;

  // The elements in row-major order; nullopt when not even their number is known (or above 64).
  std::optional<Elements> elements(const Value* value);
  // Of a tensor of one element.
  std::optional<double> scalar(const Value* value);
  // Rounded towards 0, within int64; nullopt when it is not known.
  static std::optional<std::int64_t> integer(const std::optional<double>& number);
  // All elements, when every one is a known integer.
  std::optional<std::vector<std::int64_t>> integers(const Value* value);
  // The dimensions of a value: of its type, refined by its producer and by what readers require (the input of a Linear
  // has as many columns as its weight has rows). Nullopt when not even the rank is known.
  using Extents = std::vector<std::optional<std::int64_t>>;
  std::optional<Extents> dims(const Value* value);
  // The dimensions that Reshape or Expand gives its output: of its type, refined by its shape input (0 and -1 of a
  // Reshape are unknown unless the type tells). Nullopt when not even the rank is known.
  std::optional<Extents> target_dims(const Node& node);
  // The axis that a Reshape infers from the others: its shape says -1 there.
  std::optional<std::size_t> inferred_axis(const Node& node);
  // Adds what a caller knows of a value's dimensions.
  void refine(const Value* value, const Extents& extents);

 private:
  static constexpr int kMaxDepth = 200;

  std::optional<Elements> compute(const Value& value);
  std::optional<Elements> part(const Node& node, std::size_t index);
  std::optional<Elements> shape_of(const Node& node);
  std::optional<Extents> produced_dims(const Value& value);
  std::optional<Extents> broadcast_dims(const Node& node);
  std::optional<Extents> joined_dims(const Node& node, Extents in);
  std::optional<Elements> select(const Node& node);
  std::optional<Elements> select_unknown(const Node& node);
  std::optional<Elements> join(const Node& node);
  std::optional<Elements> arithmetic(const Node& node);

  std::map<const Value*, std::optional<Elements>> known_;
  std::map<const Value*, std::optional<Extents>> dims_;
  std::map<const Value*, Extents> refined_;
  int depth_ = 0;
};

// Attribute `axes` or the constant input that carries it in newer opsets; nullopt when there is neither.
std::optional<std::vector<std::int64_t>> axes_of(const Node& node, std::size_t input);
// What every output of a Split takes of an axis of `size` entries (0: not known; then equal parts are 0 too).
std::optional<std::vector<std::int64_t>> split_sizes(const Node& node, std::int64_t size, ShapeArithmetic& numbers);
// Slice's starts, ends, axes and steps where all are constant (opset 1 attributes included), one entry per axis.
struct SliceRange {
  std::int64_t axis = 0, start = 0, end = 0, step = 1;
};
std::optional<std::vector<SliceRange>> slice_ranges(const Node& node, ShapeArithmetic& numbers);

}  // namespace onnxfold
