#include "analysis/structure/residual.h"

#include <algorithm>

#include "analysis/structure/activation.h"
#include "analysis/structure/head_layout.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr int kMaxSteps = 16;
constexpr int kMaxBack = 4;               // residuals that branches side by side may lie apart
constexpr std::size_t kMaxBranch = 4000;  // nodes

bool is_skip_norm(const Node& node) {
  return node.is("SkipLayerNormalization", "com.microsoft") ||
         node.is("SkipSimplifiedLayerNormalization", "com.microsoft");
}

// Shapes, masks and indices are no data of the stream.
bool carries_data(const Value* value) {
  if (value == nullptr || constant(value) != nullptr) return false;
  return value->dtype() == DType::kUndefined || is_float(value->dtype());
}

std::vector<Value*> data_inputs(const Node& node) {
  std::vector<Value*> inputs;
  if (node.is("Shape") || node.is("Size")) return inputs;
  for (Value* input : node.inputs()) {
    if (carries_data(input)) inputs.push_back(input);
  }
  return inputs;
}

bool earlier(const Value& a, const Value& b) {
  if (a.producer() == nullptr || b.producer() == nullptr) return a.producer() == nullptr;
  return a.producer() != b.producer() && a.graph()->before(*a.producer(), *b.producer());
}

// SkipLayerNormalization gives the stream twice: as it is and normalized.
bool starts(const Value& stream, const Value& input) {
  return &stream == &input ||
         (stream.producer() != nullptr && stream.producer() == input.producer() && is_skip_norm(*stream.producer()));
}

bool is_activation(const Node& node) {
  return node.is("Relu") || node.is("Clip") || node.is("HardSwish") || node.is("LeakyRelu") || node.is("Gelu") ||
         node.is("Sigmoid") || node.is("Elu") || node.is("Mish") || node.is("PRelu");
}

}  // namespace

ResidualFinder::ResidualFinder(const Graph& graph, const std::set<const Node*>& inner)
    : graph_(graph), inner_(inner), norms_(find_norms(graph)) {
  for (const Norm& norm : norms_) norm_of_output_[norm.output] = &norm;
  for (const ActivationMatch& activation : find_activations(graph)) activations_[activation.output] = activation.input;
}

std::vector<Residual> ResidualFinder::run() {
  for (Node* node : graph_.nodes()) {
    const bool skip = is_skip_norm(*node);
    if ((!node->is("Add") && !skip) || (!skip && inner_.count(node) != 0)) continue;
    Value *a = node->input(0), *b = node->input(1);
    if (!carries_data(a) || !carries_data(b) || a == b) continue;
    if (a->rank() && b->rank() && *a->rank() != *b->rank()) continue;
    Residual residual;
    residual.add = node;
    residual.sum = skip ? node->output(3) : node->output();
    if (earlier(*b, *a)) std::swap(a, b);  // the stream is the earlier operand
    if (!direct(a, b, residual) && !side_by_side(a, b, residual) && !side_by_side(b, a, residual)) continue;
    residual.before = residual_behind(residual.stream);
    for (Value* output : node->outputs()) {
      if (output != nullptr) sums_[output] = static_cast<int>(found_.size());
    }
    found_.push_back(std::move(residual));
  }
  return std::move(found_);
}

// The branch starts at the stream operand itself.
bool ResidualFinder::direct(Value* stream, Value* addend, Residual& residual) const {
  std::set<Node*> branch = branch_between(stream, addend);
  if (branch.empty()) return false;
  residual.stream = residual.reads = stream;
  residual.addend = addend;
  residual.branch = std::move(branch);
  return true;
}

// The branch starts at a value that the stream had before other branches were added to it.
bool ResidualFinder::side_by_side(Value* stream, Value* addend, Residual& residual) const {
  int at = residual_behind(stream);
  for (int back = 0; at >= 0 && back < kMaxBack; ++back) {
    const Residual& previous = found_[static_cast<std::size_t>(at)];
    std::set<Node*> branch = branch_between(previous.stream, addend);
    if (branch.count(previous.add) != 0) return false;
    if (!branch.empty()) {
      residual.stream = stream;
      residual.addend = addend;
      residual.reads = previous.stream;
      residual.branch = std::move(branch);
      return true;
    }
    at = previous.before;
  }
  return false;
}

// Nodes on the ways from `from` to `to`: what `to` needs, as far as it needs `from`.
std::set<Node*> ResidualFinder::branch_between(Value* from, Value* to) const {
  std::vector<Node*> needed;
  std::set<Node*> seen;
  std::vector<Value*> open = {to};
  while (!open.empty() && seen.size() < kMaxBranch) {
    Node* node = open.back()->producer();
    const bool stop = open.back() == from;
    open.pop_back();
    if (stop || node == nullptr || node->graph() != to->graph() || !seen.insert(node).second) continue;
    if (from->producer() != nullptr && !graph_.before(*from->producer(), *node)) continue;
    needed.push_back(node);
    for (Value* input : data_inputs(*node)) open.push_back(input);
  }
  std::sort(needed.begin(), needed.end(),
            [&](const Node* a, const Node* b) { return a != b && graph_.before(*a, *b); });
  std::set<Node*> branch;
  for (Node* node : needed) {
    const auto inputs = data_inputs(*node);
    const bool reached = std::any_of(inputs.begin(), inputs.end(), [&](const Value* input) {
      return starts(*from, *input) || (input->producer() != nullptr && branch.count(input->producer()) != 0);
    });
    if (reached) branch.insert(node);
  }
  if (to->producer() == nullptr || branch.count(to->producer()) == 0) branch.clear();
  return branch;
}

int ResidualFinder::residual_behind(const Value* value) const {
  for (int i = 0; i < kMaxSteps && value != nullptr; ++i) {
    const auto sum = sums_.find(value);
    if (sum != sums_.end()) return sum->second;
    const auto norm = norm_of_output_.find(value);
    const auto activation = activations_.find(value);
    const Node* node = value->producer();
    if (norm != norm_of_output_.end()) {
      value = norm->second->input;
    } else if (activation != activations_.end()) {
      value = activation->second;
    } else if (node != nullptr &&
               (moves_elements(*node) || node->is("Cast") || node->is("Dropout") || is_activation(*node))) {
      value = node->input(0);
    } else {
      return -1;
    }
  }
  return -1;
}

}  // namespace onnxfold
