#include "passes/reparam/parallel/parallel_sum.h"

#include <algorithm>
#include <set>

#include "ir/match.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool adds(const Node& node) { return node.is("Add") || node.is("Sum"); }

bool normalizes_sum(const Node& node) {
  return node.is("SkipLayerNormalization", "com.microsoft") ||
         node.is("SkipSimplifiedLayerNormalization", "com.microsoft");
}

std::size_t operand_count(const Node& node) { return normalizes_sum(node) ? 2 : node.inputs().size(); }

// Different values, none of them constant.
bool is_sum(const Node& node) {
  if ((!adds(node) && !normalizes_sum(node)) || node.output() == nullptr || operand_count(node) < 2) return false;
  std::set<const Value*> operands;
  for (std::size_t i = 0; i < operand_count(node); ++i) {
    if (node.input(i) == nullptr || constant(node.input(i)) != nullptr) return false;
    operands.insert(node.input(i));
  }
  return operands.size() == operand_count(node);
}

bool reads_as_operand(const Node& node, const Value* value) {
  for (std::size_t i = 0; i < operand_count(node); ++i) {
    if (node.input(i) == value) return true;
  }
  return false;
}

bool is_inner(const Node& node) {
  const Node* reader = normalizes_sum(node) ? nullptr : sole_consumer(node.output());
  return reader != nullptr && is_sum(*reader) && reads_as_operand(*reader, node.output());
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
  for (std::size_t side = 0; side < operand_count(add); ++side) {
    Value* value = add.input(side);
    Node* below = sole_consumer(value) == nullptr ? nullptr : value->producer();
    if (below != nullptr && adds(*below) && is_sum(*below)) {
      expand(*below, sum);
    } else {
      sum.terms.push_back(term_at(add, side));
    }
  }
}

// The operands may take each other's places in a SkipLayerNormalization, and one of them stays in any case.
bool exchangeable(const ParallelSum& sum) {
  const Type& type = sum.terms.front().value->type();
  const bool same = type.shape && std::all_of(sum.terms.begin(), sum.terms.end(),
                                              [&](const SumTerm& term) { return term.value->type() == type; });
  return same && std::any_of(sum.terms.begin(), sum.terms.end(),
                             [](const SumTerm& term) { return term.value->uses().size() != 1; });
}

// The operands of `node` but for one.
std::vector<Value*> others_of(const Node& node, const Value* value) {
  std::vector<Value*> others;
  for (std::size_t i = 0; i < operand_count(node); ++i) {
    if (node.input(i) != value) others.push_back(node.input(i));
  }
  return others;
}

// SkipLayerNormalization(Add(a, b), value) => SkipLayerNormalization(a, b): the other operand is a sum.
void drop_operand(Graph& graph, Node& skip, Value* other) {
  Node& below = *other->producer();
  const std::vector<Value*> operands = others_of(below, nullptr);
  Value* rest = operands.back();
  if (operands.size() > 2) {
    const std::vector<Value*> inner(operands.begin() + 1, operands.end());
    NodeSpec spec{inner.size() > 2 ? "Sum" : "Add", inner, {}, {}, "", ""};
    spec.outputs.push_back({other->name() + "_rest", other->type()});
    rest = graph.insert(std::move(spec), &below)->output();
  }
  graph.set_input(skip, 0, operands.front());
  graph.set_input(skip, 1, rest);
  erase_if_unused(graph, *other);
}

}  // namespace

std::vector<ParallelSum> find_parallel_sums(const Graph& graph) {
  std::vector<ParallelSum> found;
  for (Node* node : graph.nodes()) {
    if (!is_sum(*node) || is_inner(*node)) continue;
    ParallelSum sum;
    sum.root = node;
    sum.total = normalizes_sum(*node) ? nullptr : node->output();
    expand(*node, sum);
    if (sum.total == nullptr && !exchangeable(sum)) continue;
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
  // Earlier changes of the same sum may have moved the operand to another node: its only reader is the one.
  Node* node = term.value->uses().front().node;
  const std::vector<Value*> others = others_of(*node, term.value);
  if (normalizes_sum(*node)) {
    drop_operand(graph, *node, others.front());
  } else if (others.size() == 1) {
    replace_and_erase(graph, *node, *others.front());
  } else {
    NodeSpec spec{others.size() > 2 ? "Sum" : "Add", others, {}, {}, "", node->name};
    spec.outputs.push_back({node->output()->name(), node->output()->type()});
    Node* shorter = graph.insert(std::move(spec), node);
    replace_and_erase(graph, *node, *shorter->output());
  }
  erase_if_unused(graph, *term.value);
}

void drop_factors(Graph& graph, const SumTerm& term) {
  if (term.value == term.branch) return;
  const Use use = term.value->uses().front();
  graph.set_input(*use.node, static_cast<std::size_t>(use.index), term.branch);
  erase_if_unused(graph, *term.value);
}

}  // namespace onnxfold
