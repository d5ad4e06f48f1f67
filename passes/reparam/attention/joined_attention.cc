#include "passes/reparam/attention/joined_attention.h"

#include <algorithm>
#include <set>

#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr int kMaxSteps = 12;

bool is_product(const Node* node) {
  return node != nullptr && node->is("MatMul") && constant(node->input(0)) == nullptr &&
         constant(node->input(1)) == nullptr;
}

// From the sum of scores through scale, mask, Cast to the softmax.
Node* softmax_after(Value* value) {
  for (int i = 0; i < kMaxSteps; ++i) {
    Node* node = sole_consumer(value);
    if (node == nullptr || node->output() == nullptr) return nullptr;
    if (node->is("Softmax")) {
      const auto rank = value->rank();
      const std::int64_t axis = node->attr_int("axis", node->opset() >= 13 ? -1 : 1);
      return axis == -1 || (rank && axis == *rank - 1) ? node : nullptr;
    }
    const bool passes = node->is("Add") || node->is("Mul") || node->is("Div") || node->is("Cast") ||
                        (node->is("Where") && node->input(0) != value);
    if (!passes) return nullptr;
    value = node->output();
  }
  return nullptr;
}

class Finder {
 public:
  Finder(const Graph& graph, HeadPaths& paths) : paths_(paths), inputs_(graph), sums_(find_parallel_sums(graph)) {}

  std::vector<JoinedAttention> run() {
    std::vector<JoinedAttention> found;
    for (const ParallelSum& sum : sums_) {
      if (sum.total == nullptr || sum.terms.size() < 2 ||
          !std::all_of(sum.terms.begin(), sum.terms.end(), [](const SumTerm& term) {
            return term.value->uses().size() == 1 && is_product(term.branch->producer());
          }))
        continue;
      JoinedAttention joined;
      joined.softmax = softmax_after(sum.total);
      if (joined.softmax == nullptr) continue;
      joined.problem = match(sum, joined);
      found.push_back(std::move(joined));
    }
    return found;
  }

 private:
  std::string match(const ParallelSum& sum, JoinedAttention& joined) {
    std::vector<Attention> contexts;
    for (const Use& use : joined.softmax->output()->uses()) {
      if (use.node == nullptr || use.index != 0 || !is_product(use.node)) return "its probabilities are read elsewhere";
      Attention attention;
      attention.context_product = use.node;
      attention.context = use.node->output();
      attention.softmax = joined.softmax;
      const auto v = paths_.projection(use.node->input(1), -1);
      if (!v) return "the heads of v cannot be followed";
      attention.v = *v;
      contexts.push_back(std::move(attention));
    }
    if (contexts.size() != sum.terms.size()) return "it has not as many values as scores";
    std::sort(contexts.begin(), contexts.end(), [](const Attention& a, const Attention& b) {
      return a.softmax->graph()->before(*a.context_product, *b.context_product);
    });
    for (const SumTerm& term : sum.terms) {
      if (std::string why = add_branch(term, contexts, joined); !why.empty()) return why;
    }
    return check(sum, joined);
  }

  std::string add_branch(const SumTerm& term, std::vector<Attention>& contexts, JoinedAttention& joined) {
    const Node* product = term.branch->producer();
    const auto q = paths_.projection(product->input(0), -1), k = paths_.projection(product->input(1), -2);
    if (!q || !k) return "the heads of q or k cannot be followed";
    // Which value goes with which score does not matter, but one Linear may make both.
    auto own = std::find_if(contexts.begin(), contexts.end(), [&](const Attention& each) {
      return each.v.linear && q->linear && each.v.linear->product == q->linear->product;
    });
    if (own == contexts.end()) own = contexts.begin();
    AttentionBranch branch;
    branch.attention = std::move(*own);
    contexts.erase(own);
    Attention& a = branch.attention;
    a.q = *q;
    a.k = *k;
    a.score_product = term.branch->producer();
    a.heads = q->heads;
    a.kv_heads = k->heads;
    a.head_width = q->width;
    a.value_width = a.v.width;
    if (std::string why = set_scale(term, a); !why.empty()) return why;
    if (!paths_.find_output(a)) return "its output Linear was not found";
    if (!find_term(a.out->output, branch.term)) return "its outputs are not added";
    for (std::size_t i = 0; i < 3; ++i) {
      const Projection& p = *branch.projections()[i];
      if (!p.linear) return "q, k or v is made by no Linear";
      if (p.norm || p.rotary || p.past != nullptr || p.repeats != 1) return "q, k or v is normalized, turned or cached";
      branch.inputs[i] = inputs_.of(p.linear->input);
    }
    joined.branches.push_back(std::move(branch));
    joined.scores.push_back(term);
    return {};
  }

  static std::string set_scale(const SumTerm& term, Attention& a) {
    if (!a.q.scale || !a.k.scale) return "its scale is not known";
    double scale = *a.q.scale * *a.k.scale;
    for (const SumFactor& factor : term.factors) {
      const auto number = scalar_constant(factor.value);
      if (!number || *number == 0) return "its scale is not known";
      scale = factor.divides ? scale / *number : scale * *number;
    }
    a.scale = scale;
    return {};
  }

  bool find_term(const Value* value, SumTerm& found) const {
    for (const ParallelSum& sum : sums_) {
      for (const SumTerm& term : sum.terms) {
        if (term.branch == value && term.value->uses().size() == 1) {
          found = term;
          return true;
        }
      }
    }
    return false;
  }

  std::string check(const ParallelSum& sum, const JoinedAttention& joined) {
    const AttentionBranch& first = joined.branches.front();
    std::vector<Node*> nodes = {joined.softmax};
    std::set<const Node*> roots;
    for (const AttentionBranch& branch : joined.branches) {
      const Attention &a = branch.attention, &b = first.attention;
      if (a.heads != b.heads || a.kv_heads != a.heads || a.v.heads != a.heads) return "their heads are not as many";
      if (a.head_width != b.head_width || a.value_width != b.value_width) return "their heads have other widths";
      if (a.q.linear->weight->dtype() != b.q.linear->weight->dtype() || a.out->out != b.out->out)
        return "their Linears are of another type or width";
      for (std::size_t i = 0; i < 3; ++i) {
        if (std::string why = input_conflict(first.inputs[i], branch.inputs[i]); !why.empty()) return why;
      }
      for (const Projection* p : branch.projections()) {
        nodes.insert(nodes.end(), p->nodes.begin(), p->nodes.end());
        const std::vector<Node*> own = p->linear->nodes();
        nodes.insert(nodes.end(), own.begin(), own.end());
      }
      nodes.insert(nodes.end(), {a.score_product, a.context_product});
      nodes.insert(nodes.end(), a.nodes.begin(), a.nodes.end());
      const std::vector<Node*> out = a.out->nodes();
      nodes.insert(nodes.end(), out.begin(), out.end());
      roots.insert(sum_of(branch.term));
    }
    if (roots.size() != 1) return "their outputs are not added to each other";
    for (const SumTerm& term : joined.scores) {
      nodes.push_back(term.add);
      nodes.insert(nodes.end(), term.nodes.begin(), term.nodes.end());
    }
    nodes.push_back(sum.root);
    return inner_only(nodes, joined) ? "" : "an inner value is read elsewhere";
  }

  const Node* sum_of(const SumTerm& wanted) const {
    for (const ParallelSum& sum : sums_) {
      for (const SumTerm& term : sum.terms) {
        if (term.value == wanted.value) return sum.root;
      }
    }
    return nullptr;
  }

  // What the branches make is read by the branches, by Shape, and where sums and outputs leave.
  static bool inner_only(const std::vector<Node*>& nodes, const JoinedAttention& joined) {
    const std::set<const Node*> members(nodes.begin(), nodes.end());
    std::set<const Value*> leave;
    for (const AttentionBranch& branch : joined.branches) leave.insert(branch.attention.out->output);
    for (const SumTerm& term : joined.scores) leave.insert(term.add->output());
    for (const Node* node : nodes) {
      for (const Value* output : node->outputs()) {
        if (output == nullptr || leave.count(output) != 0) continue;
        for (const Use& use : output->uses()) {
          if (use.node == nullptr || (members.count(use.node) == 0 && !use.node->is("Shape"))) return false;
        }
      }
    }
    return true;
  }

  HeadPaths& paths_;
  BranchInputs inputs_;
  std::vector<ParallelSum> sums_;
};

}  // namespace

std::vector<JoinedAttention> find_joined_attentions(const Graph& graph, HeadPaths& paths) {
  return Finder(graph, paths).run();
}

}  // namespace onnxfold
