// softmax(s) (x Wv + bv) Wo + bo => softmax(s) (x Wv) Wo + (bv Wo + bo)
//
// Rows of probabilities sum to 1, so that every row of the context holds the value bias of its head once; heads of
// grouped queries hold that of their group. Nothing stands between Softmax and product (no NaN guard, whose rows sum to
// 0), nothing else reads values or context, the output Linear has a bias or is a Gemm. Values have a Linear of their
// own. In double, rounded once. M10 of the notes. Rounding.
#include "passes/pass.h"
#include "passes/reparam/attention/attention_path.h"
#include "passes/reparam/linear/linear_bias.h"

namespace onnxfold {
namespace {

class FoldValueBias final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (const Attention& attention : find_attentions(graph)) {
      const Projection& v = attention.v;
      if (!v.linear || v.linear->bias == nullptr || attention.packed()) continue;
      std::string why;
      const bool plain =
          plain_projection(attention, v, why) && rows_sum_to_one(attention, why) && plain_output(attention, why);
      if (plain && !has_place_for_bias(*attention.out)) why = "the output Linear has no bias: nothing would be saved";
      if (plain && attention.out->in != attention.heads * attention.value_width) why = "heads and columns do not agree";
      if (!why.empty()) {
        context.skipped(v.linear->product->label(), "the value bias stays: " + why);
        continue;
      }
      OF_ASSIGN(const bool folded, fold(graph, attention));
      if (!folded) context.skipped(v.linear->product->label(), "the new bias is out of the range of its type");
      changed = changed || folded;
    }
    return changed;
  }

 private:
  static Result<bool> fold(Graph& graph, const Attention& attention) {
    // Both may have changed since the attention was found, as parts of others; only their biases did.
    const Linear value = *linear_at(*attention.v.linear->product), out = *linear_at(*attention.out->product);
    OF_ASSIGN(const Numbers bias, bias_vector(value));
    OF_ASSIGN(const LinearNumbers numbers, linear_numbers(out));
    OF_ASSIGN(Numbers moved, row_times(in_context(attention, bias), numbers.weight));
    for (std::size_t i = 0; numbers.bias && i < moved.size(); ++i) moved[i] += (*numbers.bias)[i];
    OF_ASSIGN(const bool fits, put_bias(graph, out, moved));
    if (fits) remove_bias(graph, value);
    return fits;
  }

  // The value bias as it stands in every row of the context.
  static Numbers in_context(const Attention& attention, const Numbers& bias) {
    const Projection& v = attention.v;
    const std::int64_t group = attention.heads / v.heads;
    Numbers row;
    for (std::int64_t head = 0; head < attention.heads; ++head) {
      for (std::int64_t d = 0; d < attention.value_width; ++d) {
        const std::int64_t column = v.offset + head / group * v.head_stride + d * v.element_stride;
        row.push_back(*v.scale * bias[static_cast<std::size_t>(column)]);
      }
    }
    return row;
  }
};

}  // namespace

std::unique_ptr<Pass> make_fold_value_bias(const PassOptions&) { return std::make_unique<FoldValueBias>(); }

}  // namespace onnxfold
