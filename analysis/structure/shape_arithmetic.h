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
  // All elements, when every one is a known integer.
  std::optional<std::vector<std::int64_t>> integers(const Value* value);
  // The dimensions that Reshape or Expand gives its output: of its type, refined by its shape input (0 and -1 of a
  // Reshape are unknown unless the type tells). Nullopt when not even the rank is known.
  std::optional<std::vector<std::optional<std::int64_t>>> target_dims(const Node& node);

 private:
  std::optional<Elements> compute(const Node& node);
  std::optional<Elements> select(const Node& node);
  std::optional<Elements> join(const Node& node);
  std::optional<Elements> arithmetic(const Node& node);

  std::map<const Value*, std::optional<Elements>> known_;
  int depth_ = 0;
};

// Attribute `axes` or the constant input that carries it in newer opsets; nullopt when there is neither.
std::optional<std::vector<std::int64_t>> axes_of(const Node& node, std::size_t input);
// Slice's starts, ends, axes and steps where all are constant (opset 1 attributes included), one entry per axis.
struct SliceRange {
  std::int64_t axis = 0, start = 0, end = 0, step = 1;
};
std::optional<std::vector<SliceRange>> slice_ranges(const Node& node, ShapeArithmetic& numbers);

}  // namespace onnxfold
