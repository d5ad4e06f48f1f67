// What parallel branches read: the same value, or norms of one value whose gains and biases differ.
//
// Branches that read norms of the same value with the same statistics (kind, eps) can read one norm without gain and
// bias; these go into the branches' first Linears: W' = diag(g) W, b' = b + c W (M1 and M2 of the notes).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/structure/linear.h"
#include "analysis/structure/norm.h"

namespace onnxfold {

struct BranchInput {
  Value* value = nullptr;    // what the first Linears read
  std::optional<Norm> norm;  // that makes it

  const Value* stream() const { return norm ? norm->input : value; }
};

// Norms of a graph by what they make.
class BranchInputs {
 public:
  explicit BranchInputs(const Graph& graph) : norms_(find_norms(graph)) {}
  BranchInput of(Value* value) const;

 private:
  std::vector<Norm> norms_;
};

// Why branches that read these cannot be made to read one value; empty when they can.
std::string input_conflict(const BranchInput& a, const BranchInput& b);
// The branches read one value already: nothing to fold.
bool same_input(const BranchInput& a, const BranchInput& b);

// Gain and bias of the norm folded into a Linear's weight and bias (zeros when it has none). REQUIRES: a norm.
Status fold_affine(const Norm& norm, Matrix& weight, std::vector<double>& bias);
// The norm without gain and bias: an inner value of a chain, or a new operator beside the old one.
Result<Value*> plain_norm(Graph& graph, const Norm& norm);

}  // namespace onnxfold
