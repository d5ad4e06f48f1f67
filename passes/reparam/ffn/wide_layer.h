// Feed-forward layers side by side made one: hidden widths are put behind each other.
#pragma once

#include <optional>
#include <vector>

#include "analysis/structure/feed_forward.h"
#include "passes/reparam/ffn/linear_affine.h"
#include "passes/reparam/parallel/branch_input.h"
#include "passes/reparam/parallel/parallel_sum.h"

namespace onnxfold {

// One branch of the sum.
struct FfnBranch {
  SumTerm term;
  FeedForward layer;
  BranchInput input;
};

// The Split of up and gate, where they are the halves of one Linear behind one Split of its last axis; or null.
Node* half_split(const FeedForward& layer);

// Writes numbers behind what the host has.
class WideLayer {
 public:
  explicit WideLayer(const FfnBranch& host) : host_(host) {}

  // Puts a branch behind what is there, the host included; `fold`: with gain and bias of its norm.
  Status add(const FfnBranch& branch, bool fold);
  // Makes the host as wide as all that were added.
  Status write(Graph& graph);
  std::int64_t hidden() const { return up_.weight.cols; }

 private:
  Status stack(const FfnBranch& branch);
  LinearAffine packed() const;
  Status rewrite_split(Graph& graph);
  Status write_up(Graph& graph);
  void widen_types() const;

  const FfnBranch& host_;
  LinearAffine up_, gate_, down_;
};

}  // namespace onnxfold
