// Restores the topological order of a graph.
#include <fmt/format.h>

#include <queue>
#include <unordered_map>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

namespace {

// How many inputs, captures included, of each node of `graph` come from other nodes of `graph`.
void count_dependencies(const Graph& graph, const Graph& inner, Node* owner,
                        std::unordered_map<Node*, std::vector<Node*>>& dependents,
                        std::unordered_map<Node*, int>& waiting) {
  const auto depend = [&](const Value* value, Node* reader) {
    if (value == nullptr || value->graph() != &graph || value->producer() == nullptr) return;
    dependents[value->producer()].push_back(reader);
    ++waiting[reader];
  };
  for (Node* node : inner.nodes()) {
    Node* reader = owner != nullptr ? owner : node;
    for (const Value* input : node->inputs()) depend(input, reader);
    for (const Graph* below : node->subgraphs()) count_dependencies(graph, *below, reader, dependents, waiting);
  }
  if (owner != nullptr) {
    for (const Value* output : inner.outputs()) depend(output, owner);
  }
}

}  // namespace

Status Graph::sort_topologically() {
  std::unordered_map<Node*, std::vector<Node*>> dependents;
  std::unordered_map<Node*, int> waiting;
  count_dependencies(*this, *this, nullptr, dependents, waiting);
  const auto later = [](const Node* a, const Node* b) { return a->order_ > b->order_; };
  std::priority_queue<Node*, std::vector<Node*>, decltype(later)> ready(later);
  const std::vector<Node*> all = nodes();
  for (Node* node : all) {
    if (!waiting.contains(node)) ready.push(node);
  }
  std::vector<Node*> sorted;
  while (!ready.empty()) {
    Node* node = ready.top();
    ready.pop();
    sorted.push_back(node);
    for (Node* reader : dependents[node]) {
      if (--waiting[reader] == 0) ready.push(reader);
    }
  }
  if (sorted.size() != all.size()) {
    for (const Node* node : all) {
      const auto left = waiting.find(const_cast<Node*>(node));
      if (left != waiting.end() && left->second > 0) {
        return fail(Code::kCorrupt, fmt::format("the graph has a cycle through node '{}'", node->label()));
      }
    }
  }
  std::int64_t order = 0;
  for (Node* node : sorted) {
    nodes_.splice(nodes_.end(), nodes_, node->self_);
    node->order_ = order += kOrderGap;
  }
  return {};
}

}  // namespace onnxfold
