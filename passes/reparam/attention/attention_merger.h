// Attentions side by side made one: the columns of their q, k and v at their places in the Linears of one of them.
//
// The operators of the first branch (the host) stay. Either it gets the heads of all (M7: their softmaxes are apart),
// or its heads get the widths of all (M9: their scores were added before one softmax). Gains and biases of norms that
// differ, and factors on scores, go into the Linears.
#pragma once

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "analysis/structure/attention.h"
#include "analysis/structure/head_path.h"
#include "passes/head_growth.h"
#include "passes/reparam/parallel/branch_input.h"
#include "passes/reparam/parallel/parallel_sum.h"

namespace onnxfold {

// One attention of a sum. REQUIRES for merging: q, k, v and out are Linears, scale is known; an operator (if it is one)
// is ai.onnx Attention or com.microsoft MultiHeadAttention.
struct AttentionBranch {
  SumTerm term;
  Attention attention;
  std::array<BranchInput, 3> inputs;  // of q, k and v

  std::array<const Projection*, 3> projections() const { return {&attention.q, &attention.k, &attention.v}; }
};

class AttentionMerger {
 public:
  enum class Grows { kHeads, kWidth };

  // The first of the group is the host. All have the same head widths; for kWidth also the same number of heads.
  AttentionMerger(const std::vector<AttentionBranch>& group, HeadPaths& paths, Grows grows);

  // Why the host cannot take the others in, or nothing. Nothing changes.
  std::string plan();
  // The host becomes all; the others are still there. REQUIRES: plan() found nothing.
  Status apply(Graph& graph);
  // Heads, or the width of one, that the host has after it.
  std::int64_t grown() const { return total_; }

 private:
  // Where element e of head h of a projection goes.
  struct Columns {
    std::int64_t offset = 0, head_stride = 0, element_stride = 1;
    std::int64_t at(std::int64_t head, std::int64_t element) const {
      return offset + head * head_stride + element * element_stride;
    }
  };
  // A Linear of the host and which projections its columns serve.
  struct Shared {
    const Linear* linear = nullptr;
    std::vector<std::size_t> roles;  // 0: q, 1: k, 2: v
    Matrix weight;                   // as it becomes
    std::vector<double> bias;
    bool biased = false, fold = false;
  };

  std::int64_t times(std::int64_t count) const { return count / per_ * times_; }
  Growth growth_of(const Projection& projection) const;
  std::string plan_projection(std::size_t role);
  std::string plan_output();
  std::string plan_columns();
  std::string check_bijection(const Shared& shared) const;
  std::string plan_scores();
  std::string plan_operator() const;
  std::string check_masks(int head_axis, int least_rank) const;
  void grow_operator() const;
  bool differs(std::size_t role) const;
  Status fill(Shared& shared);
  Status fill(Shared& shared, std::size_t role, std::size_t branch, std::int64_t& heads_before);
  Status stack_output();
  Status write_packed_bias(Graph& graph);
  Status read_plain_norm(Graph& graph, const BranchInput& input, const Linear& linear);
  void grow_score(const Node& node) const;

  const std::vector<AttentionBranch>& group_;
  const AttentionBranch& host_;
  HeadPaths& paths_;
  Grows grows_;
  HeadGrowth growth_;
  std::int64_t total_ = 0, times_ = 1, per_ = 1;  // the dimension grows to total_, by times_ / per_
  int head_axis_ = 0;                             // of the scores, counted from the right
  std::array<Columns, 3> columns_;
  std::vector<Shared> shared_;
  std::vector<Node*> passed_, score_nodes_;
  Matrix out_weight_;
  std::vector<double> out_bias_;
  bool out_biased_ = false;
  std::vector<std::pair<const Value*, Value*>> plain_;
};

}  // namespace onnxfold
