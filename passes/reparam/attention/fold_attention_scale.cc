// softmax((x Wq + bq) k^T / c) => softmax((x Wq / c + bq / c) k^T)   also a factor on q, on k, or split over both
//
// Constant factors of q (and of the scores, directly behind their product) go into the columns of q's Linear, those of
// k into k's: through heads, Split of packed projections and rotary embeddings, which are linear. Columns of others in
// a packed Linear stay. What a factor stands behind has no other reader; a norm between Linear and factor, a cache of
// keys or a factor behind a mask stays. Saves a pass over all scores. In double, rounded once. Rounding.
#include <algorithm>
#include <set>

#include "analysis/structure/head_columns.h"
#include "ir/match.h"
#include "passes/pass.h"
#include "passes/reparam/attention/attention_path.h"
#include "passes/reparam/linear/linear_numbers.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

struct Factor {
  Node* node = nullptr;
  Value* data = nullptr;
  double number = 1;
};

// Mul or Div by a constant that holds one number and does not widen.
std::optional<Factor> factor_at(Node& node) {
  if (!node.is("Mul") && !node.is("Div")) return {};
  for (std::size_t i = node.is("Div") ? 1 : 0; i < 2; ++i) {
    const auto number = scalar_constant(node.input(i));
    Value* data = node.input(1 - i);
    if (!number || *number == 0 || data == nullptr || constant(data) != nullptr) continue;
    if (constant(node.input(i))->rank() > data->rank().value_or(0)) continue;
    return Factor{&node, data, node.is("Div") ? 1 / *number : *number};
  }
  return {};
}

bool overlap(const Projection& a, const Projection& b) {
  if (!b.linear || a.linear->product != b.linear->product) return false;
  const std::vector<std::int64_t> mine = head_columns(a), others = head_columns(b);
  const std::set<std::int64_t> columns(mine.begin(), mine.end());
  return std::any_of(others.begin(), others.end(), [&](std::int64_t column) { return columns.contains(column); });
}

class Folder {
 public:
  Folder(Graph& graph, const Attention& attention) : graph_(graph), attention_(attention) {}

  Result<bool> run(std::string& why) {
    std::string why_keys;
    OF_ASSIGN(const bool keys, fold(attention_.k, factors_of(attention_.k), why_keys));
    std::vector<Factor> factors = factors_of(attention_.q);
    if (attention_.score_product != nullptr) {
      for (const Factor& factor : score_factors()) factors.push_back(factor);
    }
    OF_ASSIGN(const bool queries, fold(attention_.q, factors, why));
    if (why.empty()) why = why_keys;
    return keys || queries;
  }

 private:
  static std::vector<Factor> factors_of(const Projection& projection) {
    std::vector<Factor> factors;
    if (!projection.linear) return factors;
    for (Node* node : projection.nodes) {
      if (auto factor = factor_at(*node)) factors.push_back(*factor);
    }
    return factors;
  }

  // Directly behind the product of queries and keys.
  std::vector<Factor> score_factors() const {
    std::vector<Factor> factors;
    Value* at = attention_.score_product->output();
    while (Node* node = sole_consumer(at)) {
      if (const auto factor = factor_at(*node)) {
        factors.push_back(*factor);
      } else if (!node->is("Reshape") && !node->is("Identity") && !node->is("Unsqueeze") && !node->is("Squeeze")) {
        break;
      }
      at = node->output();
    }
    return factors;
  }

  bool foldable(const Projection& projection, const Linear& linear, std::string& why) const {
    const Attention& a = attention_;
    why.clear();
    if (projection.norm) why = "a norm stands between projection and factor";
    if (projection.past != nullptr || projection.present != nullptr) why = "a cache keeps what it projects";
    std::vector<Node*> readers = a.nodes;
    for (const Node* node : projection.nodes) {
      for (const Value* output : node->outputs()) {
        if (output != nullptr && !read_by(*output, readers)) why = "something else reads '" + output->name() + "'";
      }
    }
    if (!read_by(*linear.output, readers)) why = "something else reads the projection";
    if (shared_bytes(linear) > 0) why = "the weight is shared";
    for (const Projection* other : {&a.q, &a.k, &a.v}) {
      if (other != &projection && overlap(projection, *other)) why = "queries and keys share columns";
    }
    return why.empty();
  }

  Result<bool> fold(const Projection& projection, const std::vector<Factor>& factors, std::string& why) {
    if (factors.empty() || !projection.linear) return false;
    // The other projection's fold may have replaced a Linear that both share.
    const auto now = linear_making(projection.linear->output->erased() ? shared_output_ : projection.linear->output);
    if (!now || !foldable(projection, *now, why)) return false;
    double number = 1;
    for (const Factor& factor : factors) number *= factor.number;
    OF_ASSIGN(LinearNumbers numbers, linear_numbers(*now));
    Numbers scale(static_cast<std::size_t>(now->out), 1.0);
    for (const std::int64_t column : head_columns(projection)) scale[static_cast<std::size_t>(column)] = number;
    for (std::size_t i = 0; numbers.bias && i < scale.size(); ++i) (*numbers.bias)[i] *= scale[i];
    numbers.weight = scaled_columns(std::move(numbers.weight), std::move(scale));
    OF_ASSIGN(const bool fits, representable(numbers));
    if (!fits) {
      why = "a scaled weight is out of the range of its type";
      return false;
    }
    OF_ASSIGN(shared_output_, replace_linear(graph_, *now, numbers, *now->input));
    for (const Factor& factor : factors) replace_and_erase(graph_, *factor.node, *factor.node->input(at(factor)));
    return true;
  }

  // Where a factor's data enters.
  static std::size_t at(const Factor& factor) {
    return factor.node->is("Mul") && scalar_constant(factor.node->input(0)) ? 1 : 0;
  }

  Graph& graph_;
  const Attention& attention_;
  Value* shared_output_ = nullptr;
};

class FoldAttentionScale final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    if (graph.opset() < 11) return false;
    for (const Attention& attention : find_attentions(graph)) {
      if (attention.fused != nullptr && attention.packed_weight != nullptr) continue;
      const Node* label = attention.fused != nullptr ? attention.fused : attention.softmax;
      std::string why;
      OF_ASSIGN(const bool folded, Folder(graph, attention).run(why));
      if (!why.empty()) context.skipped(label->label(), "a factor of queries or keys stays: " + why);
      changed = changed || folded;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_fold_attention_scale(const PassOptions&) { return std::make_unique<FoldAttentionScale>(); }

}  // namespace onnxfold
