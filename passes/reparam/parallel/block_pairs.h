// Consecutive residual blocks and how to make a pair of them parallel.
#pragma once

#include <string>
#include <vector>

#include "analysis/structure/blocks.h"
#include "ir/graph.h"

namespace onnxfold {

enum class ParallelMode {
  kStaged,  // stage by stage: x += A1(x) + A2(x), then x += F1(x) + F2(x)
  kFull,    // all branches of both blocks read the stream before the first
};

// A residual branch and the Add that ends it.
struct ResidualBranch {
  Node* add = nullptr;
  Value* stream = nullptr;  // operands of `add`
  Value* addend = nullptr;
  Value* reads = nullptr;    // the stream value that the branch begins with
  std::vector<Node*> nodes;  // between `reads` and `addend`
};

// Branches that read one stream value; the next stage reads what they made of it.
using ResidualStage = std::vector<ResidualBranch>;

// The stages of a block in order. Empty, with a reason, when it cannot be taken apart.
std::vector<ResidualStage> residual_stages(const Block& block, std::string& why);

// Why the second block cannot stand beside the first; empty when it can.
std::string pair_conflict(const Block& first, const Block& second);

// x + F1(x) + F2(x + F1(x)) => x + F1(x) + F2(x), the higher-order term dropped (M14). The graph is in topological
// order again afterwards. REQUIRES: pair_conflict() is empty.
Status make_parallel(Graph& graph, const Block& first, const Block& second, ParallelMode mode);

}  // namespace onnxfold
