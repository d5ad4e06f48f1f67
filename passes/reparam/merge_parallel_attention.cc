// x + Attention1(N1(x)) + Attention2(N2(x)) => x + Attention(N(x)), the heads of both
//
// Attentions of chain spelling with the same head widths, masks, rotary tables and ratio of query to key-value heads,
// whose results meet in a tree of Adds (any order, layer scale per branch) and that read the same values or norms of
// the same values with the same epsilon. Columns of q, k and v are put side by side head by head, rows of the output
// Linear are stacked; the operators of one attention stay, and what says how many heads there are is rewritten
// (passes/reparam/head_growth.h). Different gains and biases of the norms and different scales go into the Linears. Not
// merged: norms of q and k, key-value caches, gates, masks with an axis of heads. M7 and M1 of the method notes
// (structural reparameterization, arXiv 2511.19718). Rounding.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "analysis/structure/attention.h"
#include "analysis/structure/head_path.h"
#include "ir/match.h"
#include "passes/pass.h"
#include "passes/reparam/branch_input.h"
#include "passes/reparam/head_growth.h"
#include "passes/reparam/parallel_sum.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

using Numbers = std::vector<double>;

// One branch of the sum.
struct Branch {
  SumTerm term;
  Attention attention;
  std::array<BranchInput, 3> inputs;  // of q, k and v

  std::array<const Projection*, 3> projections() const { return {&attention.q, &attention.k, &attention.v}; }
};

// Only readers of shapes besides its own nodes.
bool closed_but_shapes(const Attention& attention) {
  std::vector<Node*> nodes = attention.nodes;
  for (const Node* node : attention.nodes) {
    for (const Value* output : node->outputs()) {
      if (output == nullptr) continue;
      for (const Use& use : output->uses()) {
        if (use.node != nullptr && use.node->graph() == node->graph() && use.node->is("Shape"))
          nodes.push_back(use.node);
      }
    }
  }
  for (const Node* node : attention.nodes) {
    for (const Value* output : node->outputs()) {
      if (output == nullptr || output == attention.output) continue;
      for (const Use& use : output->uses()) {
        if (use.node == nullptr || std::find(nodes.begin(), nodes.end(), use.node) == nodes.end()) return false;
      }
    }
  }
  return true;
}

bool plain_product(const Node* node) {
  return node != nullptr && (node->is("MatMul") || node->is("FusedMatMul", "com.microsoft"));
}

std::string unfit(const Branch& branch) {
  const Attention& a = branch.attention;
  if (a.fused != nullptr) return "it is one operator";
  if (!plain_product(a.score_product) || !plain_product(a.context_product)) return "its products are no MatMul";
  if (!a.out) return "its output Linear was not found";
  if (a.gate != nullptr || a.inner_norm) return "a gate or norm stands before its output Linear";
  if (!a.scale) return "its scale is not known";
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

std::string conflict(const Branch& x, const Branch& y) {
  const Attention &a = x.attention, &b = y.attention;
  for (std::size_t i = 0; i < 3; ++i) {
    if (std::string why = input_conflict(x.inputs[i], y.inputs[i]); !why.empty()) return why;
  }
  if (a.head_width != b.head_width || a.value_width != b.value_width) return "its heads have another width";
  if (a.heads * b.kv_heads != b.heads * a.kv_heads) return "its queries are grouped in another way";
  if (a.masks != b.masks || a.mask_value != b.mask_value || a.causal != b.causal) return "its mask is another";
  if (a.softcap != b.softcap || (a.softcap != 0 && a.scale != b.scale)) return "its scores are capped in another way";
  for (std::size_t i = 0; i < 3; ++i) {
    const Projection &p = *x.projections()[i], &q = *y.projections()[i];
    if (p.rotary != q.rotary || p.tables != q.tables || (p.rotary && signature(p) != signature(q)))
      return "its rotary embedding is another";
    if (p.linear->weight->dtype() != q.linear->weight->dtype()) return "its weights are of another type";
  }
  return a.out->out == b.out->out ? "" : "its width is another";
}

// The columns of a projection once there are more heads: where head h, element e goes.
struct Columns {
  std::int64_t offset = 0, head_stride = 0, element_stride = 1;
  std::int64_t at(std::int64_t head, std::int64_t element) const {
    return offset + head * head_stride + element * element_stride;
  }
};

Growth growth_of(const Projection& p, std::int64_t times, std::int64_t per) {
  return {p.head_stride, p.heads, times, per};
}

// Nullopt: the offset does not divide.
std::optional<Columns> grown_columns(const Projection& p, const Growth& growth) {
  const std::int64_t end = p.head_stride * p.heads;
  Columns columns{p.offset, p.head_stride, p.element_stride};
  if (p.element_stride >= end) {
    if (!growth.divides(p.element_stride)) return {};
    columns.element_stride = growth.grown(p.element_stride);
  }
  const bool between_heads = p.head_stride > p.width && p.element_stride == 1 && p.offset < p.head_stride;
  if (between_heads) return columns;
  if (!growth.divides(p.offset)) return {};
  columns.offset = growth.grown(p.offset);
  return columns;
}

// A Linear of the host and which projections its columns serve.
struct Shared {
  const Linear* linear = nullptr;
  std::vector<std::size_t> roles;  // 0: q, 1: k, 2: v
};

class Merger {
 public:
  Merger(const std::vector<Branch>& group, HeadPaths& paths)
      : group_(group), host_(group.front()), paths_(paths), growth_(paths.numbers()) {}

  // Why the host cannot take the others in; nothing changes.
  std::string plan() {
    const Attention& a = host_.attention;
    for (const Branch& branch : group_) heads_ += branch.attention.heads;
    const std::int64_t common = std::gcd(heads_, a.heads);
    times_ = heads_ / common;
    per_ = a.heads / common;
    if (a.q.heads < 2 || a.k.heads < 2 || a.v.heads < 2) return "it has one head";
    for (std::size_t role = 0; role < 3; ++role) {
      if (std::string why = plan_projection(role); !why.empty()) return why;
    }
    if (std::string why = plan_output(); !why.empty()) return why;
    if (std::string why = growth_.check_shape_readers(); !why.empty()) return why;
    if (std::string why = check_columns(); !why.empty()) return why;
    return check_scores();
  }

  Status apply(Graph& graph) {
    std::array<bool, 3> fold{};
    for (std::size_t role = 0; role < 3; ++role) fold[role] = differs(role);
    std::vector<std::pair<Matrix, Numbers>> made;
    for (const Shared& shared : shared_) {
      OF_TRY(fill(shared, fold[shared.roles.front()], made.emplace_back()));
    }
    OF_TRY(stack_output());
    growth_.apply(graph);
    for (Node* node : score_nodes_) grow_score(*node);
    for (std::size_t i = 0; i < shared_.size(); ++i) {
      const Shared& shared = shared_[i];
      if (fold[shared.roles.front()])
        OF_TRY(read_plain_norm(graph, host_.inputs[shared.roles.front()], *shared.linear));
      const bool biased = biased_[i];
      widen(*shared.linear->product->output(), made[i].first.cols);
      OF_TRY(replace_linear(graph, *shared.linear, made[i].first, biased ? &made[i].second : nullptr));
    }
    drop_factors(graph, host_.term);
    OF_TRY(replace_linear(graph, *host_.attention.out, out_.first, out_biased_ ? &out_.second : nullptr));
    return {};
  }

  std::int64_t heads() const { return heads_; }

 private:
  bool differs(std::size_t role) const {
    return std::any_of(group_.begin(), group_.end(),
                       [&](const Branch& branch) { return !same_input(host_.inputs[role], branch.inputs[role]); });
  }

  std::string plan_projection(std::size_t role) {
    const Projection& projection = *host_.projections()[role];
    const auto path = paths_.to_product(projection);
    if (!path) return "its heads cannot be followed";
    const Growth growth = growth_of(projection, times_, per_);
    const auto columns = grown_columns(projection, growth);
    if (!columns) return "the columns of its heads are not understood";
    columns_[role] = *columns;
    if (role == 0) head_axis_ = HeadGrowth::growing_axis(path->last(), growth);
    return growth_.plan(*path, *projection.linear->output, growth);
  }

  std::string plan_output() {
    const auto path = paths_.to_output(host_.attention);
    if (!path) return "its output cannot be followed";
    const Growth growth{host_.attention.value_width, host_.attention.heads, times_, per_};
    for (const HeadStep& step : path->steps) passed_.push_back(step.node);
    return growth_.plan(*path, *host_.attention.context, growth);
  }

  // Every column of the host's Linears is written once.
  std::string check_columns() {
    for (std::size_t role = 0; role < 3; ++role) {
      const Linear& linear = *host_.projections()[role]->linear;
      const auto known = std::find_if(shared_.begin(), shared_.end(),
                                      [&](const Shared& each) { return each.linear->product == linear.product; });
      if (known != shared_.end()) {
        known->roles.push_back(role);
      } else {
        shared_.push_back({&linear, {role}});
      }
    }
    for (const Shared& shared : shared_) {
      if (shared.linear->out % per_ != 0) return "the heads do not divide its columns";
      std::vector<int> written(static_cast<std::size_t>(shared.linear->out * times_ / per_), 0);
      for (const std::size_t role : shared.roles) {
        const Projection& p = *host_.projections()[role];
        for (std::int64_t head = 0; head < p.heads * times_ / per_; ++head) {
          for (std::int64_t element = 0; element < p.width; ++element) {
            const std::int64_t at = columns_[role].at(head, element);
            if (at < 0 || at >= static_cast<std::int64_t>(written.size())) return "its columns are not understood";
            ++written[static_cast<std::size_t>(at)];
          }
        }
      }
      if (std::any_of(written.begin(), written.end(), [](int times) { return times != 1; }))
        return "its Linears make more than q, k and v";
    }
    return {};
  }

  // Between the products only element-wise operators may stand, and masks may not tell heads apart.
  std::string check_scores() {
    const Attention& a = host_.attention;
    if (head_axis_ < 3) return "its heads are not before positions";
    std::vector<Node*> others = passed_;
    others.push_back(a.context_product);
    for (const Projection* p : host_.projections()) {
      others.insert(others.end(), p->nodes.begin(), p->nodes.end());
      const std::vector<Node*> own = p->linear->nodes();
      others.insert(others.end(), own.begin(), own.end());
    }
    const std::vector<Node*> out = a.out->nodes();
    others.insert(others.end(), out.begin(), out.end());
    for (Node* node : a.nodes) {
      if (std::find(others.begin(), others.end(), node) != others.end()) continue;
      if (node->is("Reshape") || node->is("Squeeze") || node->is("Unsqueeze") || node->is("Expand"))
        return node->label() + " reshapes the scores";
      score_nodes_.push_back(node);
    }
    for (const Value* mask : a.masks) {
      const auto rank = mask->rank();
      if (!rank) return "the shape of its mask is not known";
      if (*rank < head_axis_) continue;
      if ((*mask->type().shape)[static_cast<std::size_t>(*rank - head_axis_)].value != 1)
        return "its mask has an axis of heads";
    }
    return {};
  }

  void grow_score(const Node& node) const {
    for (Value* output : node.outputs()) {
      if (output == nullptr) continue;
      Type type = output->type();
      if (!type.shape || static_cast<int>(type.shape->size()) < head_axis_) continue;
      Dim& dim = (*type.shape)[type.shape->size() - static_cast<std::size_t>(head_axis_)];
      dim = dim.known() && *dim.value % per_ == 0 ? Dim{*dim.value / per_ * times_, "", ""} : Dim{};
      output->set_type(type);
    }
  }

  // The columns of all branches at their places in one Linear of the host.
  Status fill(const Shared& shared, bool fold, std::pair<Matrix, Numbers>& to) {
    auto& [weight, bias] = to;
    weight = {shared.linear->in, shared.linear->out * times_ / per_, {}};
    weight.data.assign(static_cast<std::size_t>(weight.rows * weight.cols), 0.0);
    bias.assign(static_cast<std::size_t>(weight.cols), 0.0);
    bool biased = false;
    for (const std::size_t role : shared.roles) {
      std::int64_t first = 0;
      for (const Branch& branch : group_) {
        const Projection& from = *branch.projections()[role];
        OF_ASSIGN(Matrix numbers, weight_matrix(*from.linear));
        OF_ASSIGN(Numbers shift, bias_vector(*from.linear));
        biased = biased || from.linear->bias != nullptr;
        if (fold) {
          OF_TRY(fold_affine(*branch.inputs[role].norm, numbers, shift));
          biased = biased || branch.inputs[role].norm->bias != nullptr;
        }
        const double factor = role == 0 ? *branch.attention.scale / *host_.attention.scale : 1.0;
        copy(from, factor, numbers, shift, role, first, to);
        first += from.heads;
      }
    }
    biased_.push_back(biased);
    return {};
  }

  void copy(const Projection& from, double factor, const Matrix& numbers, const Numbers& shift, std::size_t role,
            std::int64_t first, std::pair<Matrix, Numbers>& to) const {
    for (std::int64_t head = 0; head < from.heads; ++head) {
      for (std::int64_t element = 0; element < from.width; ++element) {
        const std::int64_t source = from.offset + head * from.head_stride + element * from.element_stride;
        const std::int64_t target = columns_[role].at(first + head, element);
        for (std::int64_t row = 0; row < numbers.rows; ++row)
          to.first.at(row, target) = factor * numbers.at(row, source);
        to.second[static_cast<std::size_t>(target)] = factor * shift[static_cast<std::size_t>(source)];
      }
    }
  }

  Status stack_output() {
    auto& [weight, bias] = out_;
    weight = {0, host_.attention.out->out, {}};
    bias.assign(static_cast<std::size_t>(weight.cols), 0.0);
    for (const Branch& branch : group_) {
      const Linear& out = *branch.attention.out;
      OF_ASSIGN(const Matrix numbers, weight_matrix(out));
      OF_ASSIGN(const Numbers shift, bias_vector(out));
      OF_ASSIGN(const Numbers factor, factor_of(branch.term, out.out));
      for (std::int64_t row = 0; row < numbers.rows; ++row) {
        for (std::int64_t col = 0; col < numbers.cols; ++col)
          weight.data.push_back(factor[static_cast<std::size_t>(col)] * numbers.at(row, col));
      }
      weight.rows += numbers.rows;
      for (std::size_t c = 0; c < bias.size(); ++c) bias[c] += factor[c] * shift[c];
      out_biased_ = out_biased_ || out.bias != nullptr;
    }
    return {};
  }

  static void widen(Value& value, std::int64_t columns) {
    Type type = value.type();
    if (!type.shape || type.shape->empty()) return;
    type.shape->back() = Dim{columns, "", ""};
    value.set_type(type);
  }

  Status read_plain_norm(Graph& graph, const BranchInput& input, const Linear& linear) {
    auto known =
        std::find_if(plain_.begin(), plain_.end(), [&](const auto& each) { return each.first == input.value; });
    if (known == plain_.end()) {
      OF_ASSIGN(Value * made, plain_norm(graph, *input.norm));
      known = plain_.insert(plain_.end(), {input.value, made});
    }
    graph.set_input(*linear.product, 0, known->second);
    erase_if_unused(graph, *input.value);
    return {};
  }

  const std::vector<Branch>& group_;
  const Branch& host_;
  HeadPaths& paths_;
  HeadGrowth growth_;
  std::int64_t heads_ = 0;            // of all branches
  std::int64_t times_ = 1, per_ = 1;  // heads of all to heads of the host, as a fraction
  int head_axis_ = 0;                 // of the scores, counted from the right
  std::array<Columns, 3> columns_;
  std::vector<Shared> shared_;
  std::vector<Node*> passed_, score_nodes_;
  std::vector<bool> biased_;
  std::pair<Matrix, Numbers> out_;
  bool out_biased_ = false;
  std::vector<std::pair<const Value*, Value*>> plain_;
};

class MergeParallelAttention final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    // A merge makes what was found before it stale.
    bool changed = false;
    for (;;) {
      const std::vector<Attention> attentions = find_attentions(graph);
      if (attentions.size() < 2) return changed;
      const BranchInputs inputs(graph);
      HeadPaths paths(graph);
      OF_ASSIGN(const bool here, merge_sums(graph, context, attentions, inputs, paths, changed));
      if (!here) return changed;
      changed = true;
    }
  }

 private:
  static Result<bool> merge_sums(Graph& graph, PassContext& context, const std::vector<Attention>& attentions,
                                 const BranchInputs& inputs, HeadPaths& paths, bool again) {
    bool changed = false;
    for (const ParallelSum& sum : find_parallel_sums(graph)) {
      std::vector<Branch> branches;
      for (const SumTerm& term : sum.terms) {
        const auto attention = std::find_if(attentions.begin(), attentions.end(),
                                            [&](const Attention& each) { return each.output == term.branch; });
        if (attention == attentions.end() || term.value->uses().size() != 1) continue;
        Branch branch{term, *attention, {}};
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
  static Result<bool> merge(Graph& graph, PassContext& context, std::vector<Branch>& branches, HeadPaths& paths,
                            bool again) {
    if (branches.size() < 2) return false;
    const auto skip = [&](const Branch& branch, const std::string& why) {
      if (!again) context.skipped(label(branch), why);
    };
    std::erase_if(branches, [&](const Branch& branch) {
      const std::string why = unfit(branch);
      if (!why.empty()) skip(branch, why);
      return !why.empty();
    });
    bool changed = false;
    while (branches.size() > 1) {
      std::vector<Branch> group = {branches.front()}, rest;
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

  static std::string label(const Branch& branch) {
    return branch.attention.fused != nullptr ? branch.attention.fused->label() : branch.attention.softmax->label();
  }

  // The first branch whose operators can carry all heads takes the others in.
  static Result<bool> merge_group(Graph& graph, PassContext& context, std::vector<Branch>& group, HeadPaths& paths) {
    if (group.size() < 2) return false;
    std::string first;
    for (std::size_t i = 0; i < group.size(); ++i) {
      std::swap(group[0], group[i]);
      Merger merger(group, paths);
      const std::string why = merger.plan();
      if (first.empty()) first = why;
      if (!why.empty()) continue;
      const std::int64_t heads = group[0].attention.heads;
      OF_TRY(merger.apply(graph));
      context.applied(label(group[0]),
                      fmt::format("{} attentions side by side: {} heads to {}", group.size(), heads, merger.heads()));
      for (std::size_t other = 1; other < group.size(); ++other) drop_term(graph, group[other].term);
      return true;
    }
    context.skipped(label(group[0]), first);
    return false;
  }
};

}  // namespace

std::unique_ptr<Pass> make_merge_parallel_attention(const PassOptions&) {
  return std::make_unique<MergeParallelAttention>();
}

}  // namespace onnxfold
