// HeadPath: every operator between a Linear and the product of attention that it feeds, with where the columns are.
#pragma once

#include <memory>
#include <vector>

#include "analysis/structure/attention.h"
#include "analysis/structure/head_layout.h"

namespace onnxfold {

struct HeadStep {
  Node* node = nullptr;  // the last one when `inner` has others
  Value* output = nullptr;
  bool moves = false;        // moves elements (else: changes them one by one, or within a head)
  std::vector<Node*> inner;  // rotary embedding or norm: all nodes but the last one
  HeadLayout before, after;  // columns of the Linear; of the context: head * value_width + element
};

struct HeadPath {
  HeadLayout first;  // at the Linear's output, or at the context
  std::vector<HeadStep> steps;

  const HeadLayout& last() const { return steps.empty() ? first : steps.back().after; }
};

struct StructureContext;

// Asks about one graph; REQUIRES that it stays as it is meanwhile.
class HeadPaths {
 public:
  explicit HeadPaths(const Graph& graph);
  ~HeadPaths();

  // From the Linear of q, k or v to the operand of the product. Nullopt: columns cannot be followed.
  std::optional<HeadPath> to_product(const Projection& projection);
  // The Linear and columns of an operand of a product whose axis `feature_axis` (from the right) is the width of a
  // head.
  std::optional<Projection> projection(Value* operand, int feature_axis);
  // Sets `out` from q, v and context: the Linear that reads the context, heads in order. False: there is none.
  bool find_output(Attention& attention);
  // From the context to the input of the output Linear. Nullopt: there is none, or columns cannot be followed.
  std::optional<HeadPath> to_output(const Attention& attention);
  // The elements of a shape: see ShapeArithmetic.
  ShapeArithmetic& numbers();

 private:
  std::unique_ptr<StructureContext> context_;
};

}  // namespace onnxfold
