#include "passes/merge/site_positions.h"

#include <set>
#include <string>

#include "ir/match.h"
#include "passes/merge/attention_sites.h"

namespace onnxfold {
namespace {

// Follows values forwards to the place where one position is taken out of many (the class token before the head).
class PositionFinder {
 public:
  explicit PositionFinder(const std::vector<Attention>& attentions) {
    for (const Attention& attention : attentions) {
      for (const Node* node : attention.nodes) {
        if (!linear_at(*node)) mixing_.insert(node);
      }
      // A query decides about its own position alone.
      if (attention.q.linear && attention.out && understood(attention)) {
        behind_[attention.q.linear->output] = attention.out->input;
      }
    }
  }

  std::optional<std::int64_t> of(const Value* value) {
    std::optional<std::int64_t> only;
    std::set<const Value*> seen;
    std::vector<const Value*> pending = {value};
    while (!pending.empty()) {
      const Value* next = pending.back();
      pending.pop_back();
      if (!seen.insert(next).second) continue;
      if (const auto query = behind_.find(next); query != behind_.end() && next == value) {
        pending.push_back(query->second);
        continue;
      }
      for (const Use& use : next->uses()) {
        const auto taken = use.node == nullptr ? std::nullopt : taken_position(*use.node, use.index);
        const bool passes = use.node != nullptr && !taken && keeps_positions(*use.node);
        if ((!taken && !passes) || (taken && only && *only != *taken)) return {};
        if (taken) only = taken;
        if (passes) pending.push_back(use.node->output());
      }
    }
    return only;
  }

 private:
  static std::optional<std::int64_t> taken_position(const Node& node, int index) {
    if (!node.is("Gather") || index != 0 || node.attr_int("axis", 0) != 1) return {};
    const auto indices = int_constants(node.input(1));
    if (!indices || indices->size() != 1 || indices->front() < 0) return {};
    return indices->front();
  }
  bool keeps_positions(const Node& node) const {
    if (mixing_.count(&node) != 0 || node.outputs().size() != 1 || !node.subgraphs().empty()) return false;
    static const std::set<std::string> kOthers = {"Transpose", "Reshape", "Concat",  "Slice",     "Split", "Softmax",
                                                  "Conv",      "Flatten", "Squeeze", "Unsqueeze", "Gather"};
    if (kOthers.count(std::string(node.op_type())) != 0) return false;
    if (node.op_type().rfind("Reduce", 0) == 0) {
      const auto axes = node.attr_ints("axes")     ? node.attr_ints("axes")
                        : node.input(1) != nullptr ? int_constants(node.input(1))
                                                   : std::nullopt;
      return axes && axes->size() == 1 && (axes->front() == -1 || axes->front() == 2);
    }
    return node.output()->rank() == 3;
  }

  std::set<const Node*> mixing_;
  std::map<const Value*, const Value*> behind_;
};

}  // namespace

void find_positions(const std::vector<Attention>& attentions, std::vector<TransportSite>& sites) {
  PositionFinder finder(attentions);
  for (TransportSite& site : sites) {
    for (SitePart& part : site.parts) {
      const bool tokens = part.axis == -1 && part.second->rank() == 3;
      if (tokens) part.position = finder.of(part.second);
    }
  }
}

}  // namespace onnxfold
