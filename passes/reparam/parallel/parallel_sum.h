// Sums of parallel branches: the operands of a tree of Add and Sum, in any order and association, which ONNX Runtime's
// SkipLayerNormalization may end.
#pragma once

#include <string>
#include <vector>

#include "analysis/structure/linear.h"
#include "ir/graph.h"

namespace onnxfold {

// A constant of one element or one per channel that an operand is multiplied with, or divided by.
struct SumFactor {
  Value* value = nullptr;
  bool divides = false;
};

// One operand of the sum. `branch` is what is left of it after Identity, Dropout of inference and the factors.
struct SumTerm {
  Value* value = nullptr;          // as the Add reads it
  Node* add = nullptr;             // the Add, Sum or SkipLayerNormalization that reads it
  Value* branch = nullptr;         // before the factors
  std::vector<SumFactor> factors;  // layer scale
  std::vector<Node*> nodes;        // between `branch` and the Add
};

struct ParallelSum {
  Node* root = nullptr;    // that nothing of this sum reads
  Value* total = nullptr;  // what it makes; null where the root normalizes the sum
  std::vector<SumTerm> terms;
};

// All of a graph with two operands or more that are not constant. An inner Add has no other reader. Of the operands of
// a SkipLayerNormalization one at least has other readers (the residual stream), so that two are always left.
std::vector<ParallelSum> find_parallel_sums(const Graph& graph);

// The product of a term's factors, one number per channel. Errors: whatever loading them reports.
Result<std::vector<double>> factor_of(const SumTerm& term, std::int64_t channels);

// Does nothing but `nodes` read what they make, `except` excepted? Readers of shapes count as readers.
bool closed(const std::vector<Node*>& nodes, const Value* except);

// Makes the sum one operand shorter and erases what only that operand needed. REQUIRES: another operand of the sum has
// the same shape.
void drop_term(Graph& graph, const SumTerm& term);
// Lets the Add read the branch itself (its factors have been folded).
void drop_factors(Graph& graph, const SumTerm& term);

}  // namespace onnxfold
