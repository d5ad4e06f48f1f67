// x + Attention1(N1(x)) + Attention2(N2(x)) => x + Attention(N(x)), the heads of both
// P = softmax(s (q1 k1^T + q2 k2^T)), P v1 O1 + P v2 O2 => softmax(s q k^T) v O, heads as wide as both
//
// Attentions (chains; ai.onnx Attention; com.microsoft MultiHeadAttention, Attention) with the same head widths, masks,
// rotary tables and ratio of query to key-value heads, whose results meet in a tree of Adds (any order, layer scale per
// branch) and that read the same values or norms of the same values with the same epsilon. Columns of q, k and v are
// put side by side head by head, rows of the output Linear are stacked; the operators of one attention stay, and what
// says how many heads there are is rewritten (passes/head_growth.h). Different gains and biases of
// the norms and different scales go into the Linears. Not merged: norms of q and k, key-value caches, gates, masks with
// an axis of heads. M7, M9 and M1 of the method notes (structural reparameterization, arXiv 2511.19718). Rounding.
#include <fmt/format.h>

#include <algorithm>

#include "analysis/structure/attention.h"
#include "analysis/structure/head_path.h"
#include "ir/match.h"
#include "passes/pass.h"
#include "passes/reparam/attention/attention_merger.h"
#include "passes/reparam/attention/joined_attention.h"
#include "passes/reparam/attention/packed_attention.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool plain_product(const Node* node) {
  return node != nullptr && (node->is("MatMul") || node->is("FusedMatMul", "com.microsoft"));
}

std::int64_t bias_size(const Attention& a) {
  return a.q.heads * a.q.width + a.k.heads * a.k.width + a.v.heads * a.v.width;
}

std::string unfit(const AttentionBranch& branch) {
  const Attention& a = branch.attention;
  if (a.fused != nullptr) {
    if (a.fused->is("GroupQueryAttention", "com.microsoft"))
      return "GroupQueryAttention counts keys and caches by itself: expand-attention spells those without a cache";
    if (a.packed_weight == nullptr && a.packed_bias != nullptr && constant(a.packed_bias) == nullptr)
      return "the biases of its operator are not constant";
    if (a.packed_weight == nullptr && a.packed_bias != nullptr && constant(a.packed_bias)->size() != bias_size(a))
      return "the biases of its operator are of another size";
  } else if (!plain_product(a.score_product) || !plain_product(a.context_product)) {
    return "its products are no MatMul";
  }
  if (!a.out) return "its output Linear was not found";
  if (a.gate != nullptr || a.inner_norm) return "a gate or norm stands before its output Linear";
  if (!a.scale) return "its scale is not known";
  if (a.packed_weight != nullptr) {
    if (const std::string why = packed_attention_problem(a); !why.empty()) return why;
    return closed_but_shapes(a) ? "" : "an inner value is read elsewhere";
  }
  for (const Projection* projection : branch.projections()) {
    if (!projection->linear) return "q, k or v is made by no Linear";
    if (projection->norm) return "q or k is normalized";
    if (projection->past != nullptr || projection->present != nullptr) return "it has a key-value cache";
  }
  return closed_but_shapes(a) ? "" : "an inner value is read elsewhere";
}

// Operators, attributes and constants on the way of q or k: two ways with one signature rotate alike.
std::string signature(const Projection& projection) {
  std::string text;
  for (const Node* node : projection.nodes) {
    text += node->op_type();
    for (const char* name : {"axis", "interleaved", "rotary_embedding_dim", "scale"})
      text += fmt::format(" {}", node->attr_int(name, 0));
    for (const std::int64_t entry : node->attr_ints("perm").value_or(std::vector<std::int64_t>{}))
      text += fmt::format(" {}", entry);
    for (const Value* input : node->inputs()) {
      const Tensor* tensor = constant(input);
      const auto hash = tensor != nullptr ? tensor->content_hash() : Result<std::string>("");
      const std::ptrdiff_t place =
          std::find_if(projection.nodes.begin(), projection.nodes.end(),
                       [&](const Node* other) { return input != nullptr && other == input->producer(); }) -
          projection.nodes.begin();
      text += fmt::format(" {}{}", place, hash ? *hash : "?");
    }
    text += ";";
  }
  return text;
}

// The same operator with the same attributes, heads and scale excepted; or chains.
bool same_operator(const Node* a, const Node* b) {
  if (a == nullptr || b == nullptr) return a == b;
  if (a->op_type() != b->op_type() || a->domain() != b->domain() || a->outputs().size() != b->outputs().size())
    return false;
  for (const char* name : {"is_causal", "unidirectional", "qk_matmul_output_mode", "softmax_precision", "do_rotary",
                           "rotary_embedding_dim"}) {
    if (a->attr_int(name, 0) != b->attr_int(name, 0)) return false;
  }
  for (const char* name : {"softcap", "mask_filter_value"}) {
    if (a->attr_float(name, 0) != b->attr_float(name, 0)) return false;
  }
  return true;
}

std::string conflict(const AttentionBranch& x, const AttentionBranch& y) {
  const Attention &a = x.attention, &b = y.attention;
  if (!same_operator(a.fused, b.fused)) return "it is spelled with other operators";
  for (std::size_t i = 0; i < 3; ++i) {
    if (std::string why = input_conflict(x.inputs[i], y.inputs[i]); !why.empty()) return why;
  }
  if (a.head_width != b.head_width || a.value_width != b.value_width) return "its heads have another width";
  if (a.heads * b.kv_heads != b.heads * a.kv_heads) return "its queries are grouped in another way";
  if (a.masks != b.masks || a.mask_value != b.mask_value || a.causal != b.causal) return "its mask is another";
  if (a.softcap != b.softcap || (a.softcap != 0 && a.scale != b.scale)) return "its scores are capped in another way";
  if (a.packed_weight != nullptr && a.packed_weight->dtype() != b.packed_weight->dtype())
    return "its weights are of another type";
  for (std::size_t i = 0; i < 3 && a.packed_weight == nullptr; ++i) {
    const Projection &p = *x.projections()[i], &q = *y.projections()[i];
    if (p.rotary != q.rotary || p.tables != q.tables || (p.rotary && signature(p) != signature(q)))
      return "its rotary embedding is another";
    if (p.linear->weight->dtype() != q.linear->weight->dtype()) return "its weights are of another type";
  }
  return a.out->out == b.out->out ? "" : "its width is another";
}

class MergeParallelAttention final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    // A merge makes what was found before it stale.
    bool changed = false;
    for (;;) {
      const std::vector<Attention> attentions = find_attentions(graph);
      if (attentions.size() < 2) break;
      const BranchInputs inputs(graph);
      HeadPaths paths(graph);
      OF_ASSIGN(const bool here, merge_sums(graph, context, attentions, inputs, paths, changed));
      if (!here) break;
      changed = true;
    }
    OF_ASSIGN(const bool joined, merge_joined(graph, context));
    return changed || joined;
  }

 private:
  static Result<bool> merge_joined(Graph& graph, PassContext& context) {
    HeadPaths paths(graph);
    bool changed = false;
    for (const JoinedAttention& joined : find_joined_attentions(graph, paths)) {
      if (!joined.problem.empty()) {
        context.skipped(joined.softmax->label(), joined.problem);
        continue;
      }
      AttentionMerger merger(joined.branches, paths, AttentionMerger::Grows::kWidth);
      if (const std::string why = merger.plan(); !why.empty()) {
        context.skipped(joined.softmax->label(), why);
        continue;
      }
      OF_TRY(merger.apply(graph));
      context.applied(joined.softmax->label(), fmt::format("{} attentions joined before the softmax: heads {} wide",
                                                           joined.branches.size(), merger.grown()));
      for (std::size_t other = 1; other < joined.branches.size(); ++other) {
        drop_term(graph, joined.branches[other].term);
        drop_term(graph, joined.scores[other]);
      }
      changed = true;
    }
    return changed;
  }

  static Result<bool> merge_sums(Graph& graph, PassContext& context, const std::vector<Attention>& attentions,
                                 const BranchInputs& inputs, HeadPaths& paths, bool again) {
    bool changed = false;
    for (const ParallelSum& sum : find_parallel_sums(graph)) {
      std::vector<AttentionBranch> branches;
      for (const SumTerm& term : sum.terms) {
        const auto attention = std::find_if(attentions.begin(), attentions.end(),
                                            [&](const Attention& each) { return each.output == term.branch; });
        if (attention == attentions.end() || term.value->uses().size() != 1) continue;
        AttentionBranch branch{term, *attention, {}};
        for (std::size_t i = 0; i < 3; ++i) {
          const Projection& projection = *branch.projections()[i];
          branch.inputs[i] = inputs.of(projection.linear ? projection.linear->input : projection.source);
        }
        branches.push_back(std::move(branch));
      }
      OF_ASSIGN(const bool here, merge(graph, context, branches, paths, again));
      changed = changed || here;
    }
    return changed;
  }

  // Remarks of a later round repeat what the first one said.
  static Result<bool> merge(Graph& graph, PassContext& context, std::vector<AttentionBranch>& branches,
                            HeadPaths& paths, bool again) {
    if (branches.size() < 2) return false;
    const auto skip = [&](const AttentionBranch& branch, const std::string& why) {
      if (!again) context.skipped(label(branch), why);
    };
    std::erase_if(branches, [&](const AttentionBranch& branch) {
      const std::string why = unfit(branch);
      if (!why.empty()) skip(branch, why);
      return !why.empty();
    });
    bool changed = false;
    while (branches.size() > 1) {
      std::vector<AttentionBranch> group = {branches.front()}, rest;
      for (std::size_t i = 1; i < branches.size(); ++i) {
        const std::string why = conflict(group.front(), branches[i]);
        if (!why.empty()) skip(branches[i], why);
        (why.empty() ? group : rest).push_back(branches[i]);
      }
      OF_ASSIGN(const bool here, merge_group(graph, context, group, paths));
      changed = changed || here;
      branches = std::move(rest);
    }
    return changed;
  }

  static std::string label(const AttentionBranch& branch) {
    return branch.attention.fused != nullptr ? branch.attention.fused->label() : branch.attention.softmax->label();
  }

  // The first branch whose operators can carry all heads takes the others in.
  static Result<bool> merge_group(Graph& graph, PassContext& context, std::vector<AttentionBranch>& group,
                                  HeadPaths& paths) {
    if (group.size() < 2) return false;
    if (group.front().attention.packed_weight != nullptr) return merge_packed(graph, context, group);
    std::string first;
    for (std::size_t i = 0; i < group.size(); ++i) {
      std::swap(group[0], group[i]);
      AttentionMerger merger(group, paths, AttentionMerger::Grows::kHeads);
      const std::string why = merger.plan();
      if (first.empty()) first = why;
      if (!why.empty()) continue;
      const std::int64_t heads = group[0].attention.heads;
      OF_TRY(merger.apply(graph));
      context.applied(label(group[0]),
                      fmt::format("{} attentions side by side: {} heads to {}", group.size(), heads, merger.grown()));
      for (std::size_t other = 1; other < group.size(); ++other) drop_term(graph, group[other].term);
      return true;
    }
    context.skipped(label(group[0]), first);
    return false;
  }

  static Result<bool> merge_packed(Graph& graph, PassContext& context, const std::vector<AttentionBranch>& group) {
    const std::string host = label(group[0]);
    OF_TRY(merge_packed_attentions(graph, group));
    context.applied(host, fmt::format("{} attentions side by side: {} heads to {}", group.size(),
                                      group[0].attention.heads, group[0].attention.fused->attr_int("num_heads", 0)));
    for (std::size_t other = 1; other < group.size(); ++other) drop_term(graph, group[other].term);
    return true;
  }
};

}  // namespace

std::unique_ptr<Pass> make_merge_parallel_attention(const PassOptions&) {
  return std::make_unique<MergeParallelAttention>();
}

}  // namespace onnxfold
