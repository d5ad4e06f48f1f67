// What is known about small integer tensors that are computed from shapes, element by element.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

// One element: a number, or a name such that equal names are equal numbers in every run (a symbolic dimension, or an
// expression of such). `dimension` says that it is a dimension as such, `not_negative` that it cannot be below 0 (a sum
// of dimensions, say).
struct Element {
  std::optional<std::int64_t> number;
  std::string name;
  bool dimension = false, not_negative = false;

  static Element of(std::int64_t number) { return {number, "", false}; }
  friend bool operator==(const Element& a, const Element& b) { return a.number == b.number && a.name == b.name; }
};

// A tensor of rank 0 or 1.
struct Elements {
  std::vector<Element> items;
  bool scalar = false;

  bool known() const;  // all numbers
};

// Dimension `axis` of `value` as an element; dimensions without number or symbol are named after value and axis.
Element dimension_of(const Value& value, std::size_t axis);

// Evaluates the nodes of one graph in topological order. REQUIRES: types are inferred.
class ShapeElements {
 public:
  // Records what `node` computes, if it is shape arithmetic over recorded values and constants.
  void visit(const Node& node);
  // Of a visited output or a constant; null when nothing is known.
  const Elements* find(const Value* value);

 private:
  std::optional<Elements> evaluate(const Node& node);
  std::optional<Elements> shape(const Node& node) const;
  std::optional<Elements> gather(const Node& node);
  std::optional<Elements> slice(const Node& node);
  std::optional<Elements> concat(const Node& node);
  std::optional<Elements> arithmetic(const Node& node);
  std::optional<Elements> where(const Node& node);

  std::unordered_map<const Value*, Elements> known_;
};

}  // namespace onnxfold
