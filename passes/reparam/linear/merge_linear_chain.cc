// Linear(Linear(x, W1, b1), W2, b2) => Linear(x, W1 W2, b1 W2 + b2)
//
// Linears in a row, with constant factors and addends along the last axis between them or not, become one where that
// takes fewer multiply-adds (in * out < in * mid + mid * out), so that low-rank factors stay. Nothing else reads the
// values between. Of longer chains the stretch that saves most is merged. In double, rounded once. M5 of the notes.
// Rounding.
#include <fmt/format.h>

#include "passes/pass.h"
#include "passes/reparam/linear/affine_term.h"

namespace onnxfold {
namespace {

class MergeLinearChain final : public Pass {
 public:
  explicit MergeLinearChain(const PassOptions& options) : max_growth_(options.integer("max-growth")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    if (graph.opset() < 11) return false;
    const std::vector<Node*> nodes = graph.nodes();
    for (auto each = nodes.rbegin(); each != nodes.rend(); ++each) {  // the end of a chain first
      if ((*each)->erased()) continue;
      auto linear = linear_at(**each);
      while (linear) {
        OF_ASSIGN(linear, merge(graph, *linear, context));
        changed = changed || linear;
      }
    }
    return changed;
  }

 private:
  // The Linear that took the place of a chain which ended in `last`.
  Result<std::optional<Linear>> merge(Graph& graph, const Linear& last, PassContext& context) const {
    const AffineTerm term = affine_term(*last.output, last.out, true);
    const auto count = best(term, last.out);
    if (!count) return std::nullopt;
    const std::string label = last.product->label();
    const AffineMap plan = outline(term, *count, last.out);
    if (plan.shared > max_growth_) {
      context.skipped(label, fmt::format("the weights are shared: merging copies {} bytes", plan.shared));
      return std::nullopt;
    }
    OF_ASSIGN(const AffineMap map, affine_map(term, *count, last.out, last.weight->constant()->dtype()));
    OF_ASSIGN(const bool fits, representable(map.numbers));
    if (!fits) {
      context.skipped(label, "a merged number is out of the range of its type");
      return std::nullopt;
    }
    OF_ASSIGN(Value * made, replace_linear(graph, last, map.numbers, *map.input));
    return linear_making(made);
  }

  // How many steps to merge.
  static std::optional<std::size_t> best(const AffineTerm& term, std::int64_t width) {
    std::optional<std::size_t> found;
    std::int64_t best_saving = 0;
    for (std::size_t count = 2; count <= term.steps.size(); ++count) {
      if (!term.steps[count - 1].linear) continue;
      const AffineMap map = outline(term, count, width);
      const std::int64_t saving = map.work - map.numbers.in * width;
      if (saving <= best_saving) continue;
      best_saving = saving;
      found = count;
    }
    return found;
  }

  std::int64_t max_growth_;
};

}  // namespace

std::unique_ptr<Pass> make_merge_linear_chain(const PassOptions& options) {
  return std::make_unique<MergeLinearChain>(options);
}

}  // namespace onnxfold
