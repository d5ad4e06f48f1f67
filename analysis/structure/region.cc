#include "analysis/structure/region.h"

#include <algorithm>

namespace onnxfold {

std::optional<Region> converge(Value* value, const DataInputs& inputs, const std::function<bool(const Region&)>& accept,
                               std::size_t limit) {
  std::vector<Value*> open = {value};
  Region region;
  while (region.nodes.size() < limit) {
    // The latest producer first: what it reads may lead to the others.
    auto latest = open.end();
    for (auto at = open.begin(); at != open.end(); ++at) {
      const Node* producer = (*at)->producer();
      if (producer == nullptr || producer->graph() != value->graph()) continue;
      if (latest == open.end() || producer->graph()->before(*(*latest)->producer(), *producer)) latest = at;
    }
    if (latest == open.end()) return {};
    Node* node = (*latest)->producer();
    std::erase_if(open, [&](const Value* other) { return other->producer() == node; });
    const auto data = inputs(*node);
    if (!data) return {};
    region.nodes.push_back(node);
    for (Value* input : *data) {
      if (std::find(open.begin(), open.end(), input) == open.end()) open.push_back(input);
    }
    if (open.empty()) return {};
    if (open.size() != 1) continue;
    region.source = open.front();
    if (!accept(region)) continue;
    sort_nodes(region.nodes);
    return region;
  }
  return {};
}

void sort_nodes(std::vector<Node*>& nodes) {
  std::sort(nodes.begin(), nodes.end(),
            [](const Node* a, const Node* b) { return a != b && a->graph()->before(*a, *b); });
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
}

Node* data_reader(const Value* value) {
  Node* found = nullptr;
  for (const Use& use : value->uses()) {
    if (use.node == nullptr || use.node->is("Shape") || use.node->is("Size") || use.node == found) continue;
    if (found != nullptr || use.node->graph() != value->graph()) return nullptr;
    found = use.node;
  }
  return found;
}

}  // namespace onnxfold
