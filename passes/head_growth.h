// More heads or fewer, or wider ones, for an attention whose operators stay: rewrites what says how many there are.
//
// Heads (or elements of a head) are a dimension of a Linear's columns: `stride` apart, `size` of them. On the way from
// the Linear to the product of attention, and from the context to the output Linear, an axis that holds the outermost
// part of that dimension grows with it; all others stay. So targets of Reshape and Expand (constants, or Concats of
// shape arithmetic), sizes of Split and bounds of Slice are multiplied on such axes, and nothing else needs a change,
// whatever the spelling.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "analysis/structure/head_path.h"

namespace onnxfold {

// A dimension of the columns that grows from `size` to `size * times / per`.
struct Growth {
  std::int64_t stride = 0, size = 0;
  std::int64_t times = 1, per = 1;

  // Does an axis with these factors grow?
  bool holds(const std::vector<AxisFactor>& axis) const;
  std::int64_t grown(std::int64_t count) const { return count / per * times; }
  bool divides(std::int64_t count) const { return count % per == 0; }
};

// Collects the changes of several paths of one attention, then makes them.
class HeadGrowth {
 public:
  // `compute`: a target that is computed in a way that is not understood is corrected where it is used, and readers of
  // shapes are given the numbers from before. Then all growths must be by the same factor.
  explicit HeadGrowth(ShapeArithmetic& numbers, bool compute = false) : numbers_(numbers), compute_(compute) {}

  // What must change on a path. Returns why it cannot be done, or nothing.
  std::string plan(const HeadPath& path, Value& start, const Growth& growth);
  // The index of the axis, counted from the right (1: the last), that grows in a value of this layout; 0: not one.
  static int growing_axis(const HeadLayout& layout, const Growth& growth);
  // Readers of the shape of planned values may not read what grows. REQUIRES: all paths planned.
  std::string check_shape_readers();
  // The axis (from the left) of a value that grows as well: readers of its shape count. REQUIRES `compute`.
  void also_grows(Value& value, std::size_t axis) { read_only_[&value].insert(axis); }
  void apply(Graph& graph);
  // Does apply() give this value its new type?
  bool knows(Value& value) const { return growing_.count(&value) != 0; }

 private:
  struct Target {  // of Reshape or Expand: constant entries, or those of a Concat (none: stays)
    std::vector<std::optional<std::int64_t>> entries;
    Node* concat = nullptr;
  };

  std::string plan_step(const HeadStep& step, const Growth& growth);
  std::string plan_target(const HeadStep& step, const Growth& growth);
  std::string plan_concat(Node& node, const HeadStep& step, const Growth& growth);
  std::string plan_computed(const HeadStep& step, const Growth& growth);
  std::string shape_reader(Node& shape, const std::set<std::size_t>& axes);
  void correct(Graph& graph, Node& node, const std::set<std::size_t>& axes, std::size_t rank) const;
  void keep_numbers(Graph& graph, Node& shape, const std::vector<std::size_t>& entries) const;
  std::string plan_split(const HeadStep& step, const Growth& growth);
  std::string plan_slice(const HeadStep& step, const Growth& growth);
  std::string plan_inner(Node& node, const HeadStep& step, const Growth& growth);
  std::string plan_heads_attribute(Node& node, const Growth& growth);
  std::string keep(Node& node, std::size_t input, std::vector<std::int64_t> numbers);
  void note_value(Value& value, const HeadLayout& layout, const Growth& growth);

  ShapeArithmetic& numbers_;
  std::map<Node*, Target> targets_;
  struct Input {  // its new constant; input 0: the attribute of an old Split
    Node* node;
    std::size_t input;
    std::vector<std::int64_t> numbers;
  };
  std::vector<Input> inputs_;
  std::map<Node*, std::int64_t> head_attributes_;
  std::map<Value*, std::map<std::size_t, std::int64_t>> growing_;  // axes, counted from the left, and their new sizes
  std::vector<Value*> unknown_;                                    // values whose types are not known any more
  std::vector<Node*> order_;                                       // of targets_, as planned
  const bool compute_;
  Growth factor_;                                      // with `compute`: of all growths
  std::map<Value*, std::set<std::size_t>> read_only_;  // growing axes that matter for readers of shapes only
  struct Corrected {                                   // Reshape or Expand with a computed target of `rank` entries
    Node* node;
    std::set<std::size_t> axes;  // that grow
    std::size_t rank;
  };
  std::vector<Corrected> corrected_;
  std::vector<std::pair<Node*, std::vector<std::size_t>>> shapes_kept_;  // Shape; its entries that grow
};

// The nodes of an attention between its products, `passed` and those of its projections and output left out: only
// element-wise operators may stand there. Returns why it cannot be done, or nothing. REQUIRES that q, k and v come from
// Linears.
std::string find_score_nodes(const Attention& attention, const std::vector<Node*>& passed,
                             std::vector<Node*>& score_nodes);

// Does nothing outside of an attention read its inner values, but for their shapes?
bool closed_but_shapes(const Attention& attention);

}  // namespace onnxfold
