// softmax(q (x Wk + bk)^T) => softmax(q (x Wk)^T)
//
// q bk adds one number to all scores of a row, which Softmax does not see. Holds where scores are products with keys as
// projected: no rotary embedding or norm on the keys, no cache, no cap, masks added or hiding by -1e4 or less; nothing
// else reads keys or scores. Keys have a Linear of their own (a packed projection would keep its bias for queries and
// values). Costs nothing, saves an Add. M11 of the notes. Rounding.
#include "passes/pass.h"
#include "passes/reparam/attention/attention_path.h"
#include "passes/reparam/linear/linear_bias.h"

namespace onnxfold {
namespace {

class RemoveKeyBias final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (const Attention& attention : find_attentions(graph)) {
      const Projection& k = attention.k;
      if (!k.linear || k.linear->bias == nullptr || attention.packed()) continue;
      std::string why;
      if (!plain_projection(attention, k, why) || !shift_invariant(attention, why)) {
        context.skipped(k.linear->product->label(), "the key bias stays: " + why);
        continue;
      }
      remove_bias(graph, *k.linear);
      changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_remove_key_bias(const PassOptions&) { return std::make_unique<RemoveKeyBias>(); }

}  // namespace onnxfold
