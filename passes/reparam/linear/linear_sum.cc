#include "passes/reparam/linear/linear_sum.h"

#include <fmt/format.h>

#include <algorithm>

#include "ir/match.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool sums(const Node& node) {
  if (!node.is("Add") && !node.is("Sub") && !node.is("Sum")) return false;
  return node.inputs().size() >= 2 && std::none_of(node.inputs().begin(), node.inputs().end(), [](const Value* input) {
           return input == nullptr || constant(input) != nullptr;
         });
}

void open(Node& node, double sign, LinearSum& sum) {
  for (std::size_t i = 0; i < node.inputs().size(); ++i) {
    Value* value = node.input(i);
    const double own_sign = node.is("Sub") && i == 1 ? -sign : sign;
    const bool own = sole_consumer(value) == &node;
    Node* producer = value->producer();
    if (own && producer != nullptr && sums(*producer)) {
      open(*producer, own_sign, sum);
    } else {
      sum.terms.push_back({affine_term(*value, sum.width, own), own_sign});
    }
  }
}

std::optional<std::int64_t> last_dim(const Value& value) {
  const auto& shape = value.type().shape;
  if (!shape || shape->empty() || !shape->back().known()) return {};
  return *shape->back().value;
}

// Members of one input, one view of each term.
class Candidate {
 public:
  Candidate(const LinearSum& sum, Value& input, std::int64_t max_linears) : sum_(sum) {
    group_.input = &input;
    for (std::size_t i = 0; i < sum.terms.size(); ++i) {
      const AffineTerm& term = sum.terms[i].term;
      for (std::size_t count = 0; count <= term.steps.size(); ++count) {
        if ((count == 0 ? term.value : term.steps[count - 1].before) != &input) continue;
        const AffineMap map = outline(term, count, sum.width);
        if (map.linears <= max_linears) add(i, count, map);
        break;
      }
    }
    if (base_ != nullptr) drop_others();
  }

  bool gains() const {
    if (base_ == nullptr || group_.members.size() < 2) return false;
    const std::int64_t now = nodes_ + static_cast<std::int64_t>(group_.members.size()) - 1;
    const bool gemm = base_->product->is("Gemm");
    return (gemm || !bias_ ? 1 : 2) < now && base_->in * sum_.width <= work_;
  }

  std::int64_t shared() const { return shared_; }
  const SumGroup& group() const { return group_; }

 private:
  void add(std::size_t term, std::size_t count, const AffineMap& map) {
    for (std::size_t k = 0; k < count; ++k) {
      const AffineStep& step = sum_.terms[term].term.steps[k];
      if (map.linears == 1 && base_ == nullptr && step.linear) base_ = &*step.linear;
      bias_ = bias_ || step.shift || (step.linear && step.linear->bias != nullptr);
    }
    group_.members.push_back(term);
    group_.counts.push_back(count);
    nodes_ += map.nodes;
    work_ += map.work;
    shared_ += map.shared;
    if (map.linears > 1) ++group_.chained;
  }

  // Without a Linear, rows of the input itself are added: they must be as wide as the result.
  void drop_others() {
    if (base_->in == sum_.width) return;
    for (std::size_t i = group_.members.size(); i-- > 0;) {
      const AffineTerm& term = sum_.terms[group_.members[i]].term;
      const AffineMap map = outline(term, group_.counts[i], sum_.width);
      if (map.linears > 0) continue;
      nodes_ -= map.nodes;
      group_.members.erase(group_.members.begin() + static_cast<std::ptrdiff_t>(i));
      group_.counts.erase(group_.counts.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  const LinearSum& sum_;
  SumGroup group_;
  const Linear* base_ = nullptr;  // a member that is one Linear
  bool bias_ = false;
  std::int64_t nodes_ = 0, work_ = 0, shared_ = 0;
};

Type type_of(const Value& input, std::int64_t width, DType dtype) {
  if (!input.type().shape || input.type().shape->empty()) return Type::tensor(dtype);
  std::vector<Dim> dims = *input.type().shape;
  dims.back() = Dim{width, "", ""};
  return Type::tensor(dtype, std::move(dims));
}

}  // namespace

std::optional<LinearSum> linear_sum(Node& root) {
  if (!sums(root) || root.output() == nullptr) return {};
  const Node* next = sole_consumer(root.output());
  if (next != nullptr && sums(*next)) return {};
  const auto width = last_dim(*root.output());
  if (!width || *width <= 0) return {};
  LinearSum sum{&root, *width, {}};
  open(root, 1, sum);
  return sum;
}

std::optional<SumGroup> best_group(const LinearSum& sum, std::int64_t max_linears, std::int64_t max_growth,
                                   std::string& why) {
  std::optional<SumGroup> best;
  for (const Summand& summand : sum.terms) {
    for (std::size_t count = 0; count <= summand.term.steps.size(); ++count) {
      Value* input = count == 0 ? summand.term.value : summand.term.steps[count - 1].before;
      const Candidate candidate(sum, *input, max_linears);
      if (!candidate.gains() || (best && candidate.group().members.size() <= best->members.size())) continue;
      if (candidate.shared() > max_growth) {
        why = fmt::format("the weights are shared: merging copies {} bytes", candidate.shared());
        continue;
      }
      best = candidate.group();
    }
  }
  return best;
}

Result<bool> merge_group(Graph& graph, const LinearSum& sum, const SumGroup& group) {
  Node& root = *sum.root;
  const DType dtype = root.output()->dtype();
  LinearNumbers merged;
  std::vector<MatrixFn> parts;
  const Linear* base = nullptr;
  for (std::size_t i = 0; i < group.members.size(); ++i) {
    const Summand& summand = sum.terms[group.members[i]];
    OF_ASSIGN(AffineMap map, affine_map(summand.term, group.counts[i], sum.width, dtype));
    for (std::size_t k = 0; k < group.counts[i] && base == nullptr && map.linears == 1; ++k) {
      if (summand.term.steps[k].linear) base = &*summand.term.steps[k].linear;
    }
    if (map.numbers.bias) {
      if (!merged.bias) merged.bias = Numbers(static_cast<std::size_t>(sum.width), 0.0);
      for (std::size_t k = 0; k < merged.bias->size(); ++k) (*merged.bias)[k] += summand.sign * (*map.numbers.bias)[k];
    }
    MatrixFn weight = std::move(map.numbers.weight);
    if (summand.sign < 0) {
      weight = scaled_rows(std::move(weight), Numbers(static_cast<std::size_t>(map.numbers.in), -1.0));
    }
    parts.push_back(std::move(weight));
    merged.in = map.numbers.in;
  }
  merged.out = sum.width;
  merged.dtype = dtype;
  merged.weight = onnxfold::sum(std::move(parts));
  OF_ASSIGN(const bool fits, representable(merged));
  if (!fits) return false;

  const std::string hint = root.output()->name();
  const Type type = type_of(*group.input, sum.width, dtype);
  OF_ASSIGN(Value * result, insert_linear(graph, merged, *group.input, base->product->is("Gemm"), {hint, type},
                                          names_of(*base), &root));
  std::size_t left = sum.terms.size() - group.members.size();
  for (std::size_t i = 0; i < sum.terms.size(); ++i) {
    if (std::find(group.members.begin(), group.members.end(), i) != group.members.end()) continue;
    const Type partial = --left == 0 ? root.output()->type() : Type::tensor(dtype);
    Node* add = graph.insert({.op_type = sum.terms[i].sign < 0 ? "Sub" : "Add",
                              .inputs = {result, sum.terms[i].term.value},
                              .outputs = {{hint, partial}},
                              .attributes = {},
                              .domain = "",
                              .name = left == 0 ? root.name : ""},
                             &root);
    result = add->output();
  }
  return replace_and_erase(graph, root, *result);
}

}  // namespace onnxfold
