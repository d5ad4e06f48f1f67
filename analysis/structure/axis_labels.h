// Labels of axes: axes that hold the same neurons have one label (union-find). Internal to analysis/structure.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "analysis/structure/axis_groups.h"

namespace onnxfold {

inline constexpr int kFixed = -1;  // label of an axis whose neurons may not move

using Labels = std::vector<int>;  // one an axis

// Of a constant its own; of a computed value what its type says; -1 is a dimension that is not known.
std::vector<std::int64_t> dims_of(const Value& value);

// Is it one of these, of ONNX or of com.microsoft?
template <std::size_t N>
bool one_of(const Node& node, const std::array<std::string_view, N>& operators) {
  return std::find(operators.begin(), operators.end(), node.op_type()) != operators.end() &&
         (node.domain().empty() || node.domain() == "com.microsoft");
}

class AxisLabels {
 public:
  // Of a value seen for the first time: new labels for the axes of a floating constant, fixed ones for all else.
  Labels& labels(const Value& value);
  // Of a computed value; the first setting counts.
  void set(const Value* value, Labels made);
  void fix(const Value& value);
  void fix_label(int label);
  // Of a node that is not understood: all that it reads, in its subgraphs too.
  void give_up(const Node& node);
  // Only permutations may act on these.
  void pointwise(const Labels& labels);
  void centred(int label);
  // The label that both have from now on; fixed when one of them is, or sizes differ.
  int join(int a, int b);
  // One element (a fixed label) stands for all channels: it moves with any of them.
  void join_if_sized(int small, int label);

  // Of the labels that are free and lead from one constant to another, in order of their first constants.
  std::vector<AxisGroup> groups();

 private:
  struct Flags {
    std::int64_t size;
    bool fixed, pointwise, centred;
  };

  int fresh(std::int64_t size);
  int root(int label) const;
  Flags& flags(int label) { return flags_[static_cast<std::size_t>(root(label))]; }
  void add_places(bool constants, std::map<int, std::size_t>& place, std::vector<AxisGroup>& groups);

  std::map<const Value*, Labels> labels_;
  std::vector<const Value*> order_;
  std::vector<int> parents_;
  std::vector<Flags> flags_;
};

}  // namespace onnxfold
