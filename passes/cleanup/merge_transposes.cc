// Transpose(Transpose(x, p), q) => Transpose(x, p[q])   or x, when p[q] is the identity.
//
// The inner Transpose may have other readers only when the pair cancels: otherwise nothing would be saved.
// Exact. r[i] = p[q[i]].
#include <algorithm>

#include "passes/cleanup/shapes.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool merge(Graph& graph, Node& outer) {
  Value* middle = outer.input(0);
  Node* inner = middle == nullptr ? nullptr : middle->producer();
  if (inner == nullptr || !inner->is("Transpose") || inner->graph() != &graph) return false;
  const auto p = permutation(*inner), q = permutation(outer);
  if (!p || !q || p->size() != q->size()) return false;
  std::vector<std::int64_t> composed;
  for (const std::int64_t axis : *q) composed.push_back((*p)[static_cast<std::size_t>(axis)]);
  if (std::is_sorted(composed.begin(), composed.end())) return replace_and_erase(graph, outer, *inner->input(0));
  if (sole_consumer(middle) == nullptr) return false;
  graph.set_input(outer, 0, inner->input(0));
  outer.set_attribute("perm", composed);
  graph.erase(*inner);
  return true;
}

class MergeTransposes final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* node : graph.nodes_of("Transpose")) {
      while (!node->erased() && merge(graph, *node)) changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_merge_transposes(const PassOptions&) { return std::make_unique<MergeTransposes>(); }

}  // namespace onnxfold
