// Takes heads out of one attention: columns of q, k and v, rows of the output Linear, and all that says how many heads
// there are, whatever the spelling (passes/head_growth.h).
#pragma once

#include <array>
#include <string>
#include <vector>

#include "analysis/structure/attention.h"
#include "analysis/structure/head_path.h"
#include "passes/head_growth.h"

namespace onnxfold {

// Heads go in groups: a key-value head with all query heads that read it.
class HeadPruner {
 public:
  // REQUIRES that attention and paths belong to a graph that stays as it is until apply().
  HeadPruner(const Attention& attention, HeadPaths& paths, std::int64_t kept);

  static std::int64_t groups(const Attention& attention) { return attention.kv_heads; }
  // Rows of the output Linear that hold the context of a group.
  static std::vector<std::int64_t> output_rows(const Attention& attention, std::int64_t group);

  // Why it cannot be done, or nothing. Nothing changes.
  std::string plan();
  // Only these groups stay (rising, as many as said). The output Linear gets their rows as they are.
  // REQUIRES: plan() found nothing.
  Status apply(Graph& graph, const std::vector<std::int64_t>& kept);

 private:
  struct Columns {
    std::int64_t offset = 0, head_stride = 0, element_stride = 1;
  };
  struct Mask {  // operand of a score node (or of the operator) with one entry per head
    Node* node = nullptr;
    std::size_t input = 0;
    std::size_t axis = 0;
  };
  struct Shared {  // a Linear and which of q, k, v its columns serve
    Linear linear;
    std::vector<std::size_t> roles;
  };

  std::array<const Projection*, 3> projections() const { return {&attention_.q, &attention_.k, &attention_.v}; }
  std::int64_t fewer(std::int64_t count) const { return count / per_ * times_; }
  std::string plan_parts() const;
  std::string plan_projection(std::size_t role);
  std::string plan_columns();
  std::string plan_scores();
  std::string plan_operand(Node& node, std::size_t input);
  std::string plan_operator();
  std::vector<std::int64_t> heads_of(const std::vector<std::int64_t>& groups, const Projection& projection) const;
  std::vector<std::int64_t> columns_kept(const Shared& shared, const std::vector<std::int64_t>& groups) const;
  Status apply_linears(Graph& graph, const std::vector<std::int64_t>& groups);
  Status apply_packed(Graph& graph, const std::vector<std::int64_t>& groups);
  void apply_operator() const;
  void forget_types();
  void shrink_score(const Node& node) const;

  const Attention attention_;
  HeadPaths& paths_;
  HeadGrowth growth_;
  const std::int64_t kept_;
  std::int64_t times_ = 1, per_ = 1;
  int head_axis_ = 0;  // of the scores, counted from the right
  std::array<Columns, 3> columns_;
  std::vector<Shared> shared_;
  std::vector<Node*> passed_, score_nodes_;
  std::vector<Mask> masks_;
};

}  // namespace onnxfold
