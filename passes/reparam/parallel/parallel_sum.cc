#include "passes/reparam/parallel/parallel_sum.h"

#include <algorithm>
#include <set>

#include "ir/match.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool is_sum(const Node& node) {
  return node.is("Add") && node.output() != nullptr && node.input(0) != nullptr && node.input(1) != nullptr &&
         node.input(0) != node.input(1) && constant(node.input(0)) == nullptr && constant(node.input(1)) == nullptr;
}

bool is_inner(const Node& node) {
  const Node* reader = sole_consumer(node.output());
  return reader != nullptr && is_sum(*reader);
}

// [d], [1, d]... or one element, of a rank that does not change the product's.
bool is_factor(const Value* value, const Value& product) {
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || !is_float(tensor->dtype())) return false;
  const auto rank = product.rank();
  if (tensor->rank() > 1 && (!rank || tensor->rank() > *rank)) return false;
  return tensor->size() == 1 || (tensor->rank() > 0 && tensor->dims().back() == tensor->size());
}

SumTerm term_at(Node& add, std::size_t side) {
  SumTerm term;
  term.add = &add;
  term.value = term.branch = add.input(side);
  while (sole_consumer(term.branch) != nullptr && term.branch->producer() != nullptr) {
    Node* node = term.branch->producer();
    Value* next = nullptr;
    if (node->is("Identity") || (node->is("Dropout") && node->opset() >= 12 && node->input(2) == nullptr)) {
      next = node->input(0);
    } else if (node->is("Mul") || node->is("Div")) {
      for (std::size_t i = node->is("Div") ? 1 : 0; i < 2 && next == nullptr; ++i) {
        Value* factor = behind_identity(node->input(i));
        if (!is_factor(factor, *term.branch) || constant(node->input(1 - i)) != nullptr) continue;
        term.factors.push_back({factor, node->is("Div")});
        next = node->input(1 - i);
      }
    }
    if (next == nullptr) break;
    term.nodes.push_back(node);
    term.branch = next;
  }
  return term;
}

void expand(Node& add, ParallelSum& sum) {
  for (std::size_t side = 0; side < 2; ++side) {
    Node* below = sole_producer(add.input(side), "Add");
    if (below != nullptr && is_sum(*below)) {
      expand(*below, sum);
    } else {
      sum.terms.push_back(term_at(add, side));
    }
  }
}

}  // namespace

std::vector<ParallelSum> find_parallel_sums(const Graph& graph) {
  std::vector<ParallelSum> found;
  for (Node* node : graph.nodes()) {
    if (!is_sum(*node) || is_inner(*node)) continue;
    ParallelSum sum;
    sum.root = node;
    expand(*node, sum);
    found.push_back(std::move(sum));
  }
  return found;
}

Result<std::vector<double>> factor_of(const SumTerm& term, std::int64_t channels) {
  std::vector<double> product(static_cast<std::size_t>(channels), 1.0);
  for (const SumFactor& factor : term.factors) {
    OF_ASSIGN(const std::vector<double> numbers, to_doubles(*factor.value->constant()));
    if (numbers.size() != 1 && numbers.size() != product.size()) {
      return fail(Code::kInvalidArgument, "'" + factor.value->name() + "' has not one number per channel");
    }
    for (std::size_t c = 0; c < product.size(); ++c) {
      const double number = numbers[numbers.size() == 1 ? 0 : c];
      product[c] = factor.divides ? product[c] / number : product[c] * number;
    }
  }
  return product;
}

bool closed(const std::vector<Node*>& nodes, const Value* except) {
  const std::set<const Node*> members(nodes.begin(), nodes.end());
  for (const Node* node : nodes) {
    for (const Value* output : node->outputs()) {
      if (output == nullptr || output == except) continue;
      for (const Use& use : output->uses()) {
        if (use.node == nullptr || members.count(use.node) == 0) return false;
      }
    }
  }
  return true;
}

void drop_term(Graph& graph, const SumTerm& term) {
  // Earlier changes of the same sum may have moved the operand to another Add: its only reader is the one.
  Node* add = term.value->uses().front().node;
  Value* other = add->input(add->input(0) == term.value ? 1 : 0);
  replace_and_erase(graph, *add, *other);
  erase_if_unused(graph, *term.value);
}

void drop_factors(Graph& graph, const SumTerm& term) {
  if (term.value == term.branch) return;
  const Use use = term.value->uses().front();
  graph.set_input(*use.node, static_cast<std::size_t>(use.index), term.branch);
  erase_if_unused(graph, *term.value);
}

}  // namespace onnxfold
