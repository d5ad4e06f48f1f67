// Attentions whose scores are added before one softmax: sum over b of softmax(sum over c of s_c q_c k_c^T) v_b O_b.
#pragma once

#include <vector>

#include "passes/reparam/attention/attention_merger.h"

namespace onnxfold {

struct JoinedAttention {
  Node* softmax = nullptr;
  std::vector<AttentionBranch> branches;  // term: of the sum of outputs; attention.scale: the branch's own factor
  std::vector<SumTerm> scores;            // the same in the sum of scores
  std::string problem;                    // why they cannot be merged
};

// All of a graph with two score products or more, each with a context of its own, in topological order.
std::vector<JoinedAttention> find_joined_attentions(const Graph& graph, HeadPaths& paths);

}  // namespace onnxfold
