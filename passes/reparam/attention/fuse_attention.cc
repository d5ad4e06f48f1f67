// MatMul(q, k^T), scale, mask, Softmax, MatMul(.., v) => Attention      opset 23
//
// In every spelling that analysis/structure/attention.h recognises and attention_chain.h can read exactly: one mask at
// most, added after the scale or chosen by Where with a number that swallows any score; nothing else between product
// and Softmax; no inner value read elsewhere. q, k and v of rank 4, or of rank 3 with heads side by side when Reshape
// and Transpose around the chain say so. Scalar factors of q and k become the scale; repeated heads of k and v become
// kv_num_heads; a constant triangle becomes is_causal. The operator wants a mask with a row per position of q, so
// others are repeated by Expand. A scale that no float32 holds stays a Mul of q. Rounding.
#include <cmath>

#include "passes/pass.h"
#include "passes/reparam/attention/attention_chain.h"
#include "passes/reparam/chain_builder.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

Value* transposed_key(ChainBuilder& build, const AttentionChain& chain) {
  if (chain.key_order.empty()) return chain.k;
  Type type = chain.k->type();
  for (std::size_t i = 0; i < 4; ++i) {
    (*type.shape)[i] = (*chain.k->type().shape)[static_cast<std::size_t>(chain.key_order[i])];
  }
  std::vector<Attribute> attributes;
  attributes.emplace_back("perm", chain.key_order);
  return build.add("Transpose", {chain.k}, std::move(type), std::move(attributes));
}

// [positions of q, 1]: Expand's target.
Value* row_target(ChainBuilder& build, Value* q) {
  const std::size_t axis = q->type().shape->size() == 4 ? 2 : 1;
  const Dim& positions = (*q->type().shape)[axis];
  if (positions.known()) return build.ints({*positions.value, 1});
  std::vector<Attribute> range, first;
  range.emplace_back("start", static_cast<std::int64_t>(axis));
  range.emplace_back("end", static_cast<std::int64_t>(axis) + 1);
  first.emplace_back("axis", std::int64_t{0});
  Value* count = build.add("Shape", {q}, Type::tensor(DType::kInt64, Dims{1}), std::move(range));
  return build.add("Concat", {count, build.ints({1})}, Type::tensor(DType::kInt64, Dims{2}), std::move(first));
}

Value* mask_of(ChainBuilder& build, const AttentionChain& chain) {
  Value* mask = chain.mask;
  const DType dtype = chain.q->dtype();
  if (chain.hidden) {
    Value *open = build.scalar(0, dtype), *hidden = build.scalar(*chain.hidden, dtype);
    Type type = mask->type();
    type.dtype = dtype;
    std::vector<Value*> inputs = {mask, open, hidden};
    if (chain.hidden_where_true) std::swap(inputs[1], inputs[2]);
    mask = build.add("Where", std::move(inputs), std::move(type));
  }
  if (!chain.expand_mask) return mask;
  Type type = mask->type();
  const auto& shape = *chain.q->type().shape;
  (*type.shape)[type.shape->size() - 2] = shape[shape.size() == 4 ? 2 : 1];
  return build.add("Expand", {mask, row_target(build, chain.q)}, std::move(type));
}

bool is_default_scale(const AttentionChain& chain) {
  return std::fabs(chain.scale * std::sqrt(static_cast<double>(chain.head_width)) - 1) < 1e-14;
}

void rewrite(Graph& graph, const AttentionChain& chain) {
  Node* last = chain.output->producer();
  ChainBuilder build(graph, *last);
  std::vector<Attribute> attributes;
  Value* q = chain.q;
  if (!is_default_scale(chain)) {
    const float held = static_cast<float>(chain.scale);
    const bool exact = static_cast<double>(held) == chain.scale;
    if (!exact) q = build.map("Mul", {q, build.scalar(chain.scale, q->dtype())});
    attributes.emplace_back("scale", exact ? held : 1.0F);
  }
  if (chain.causal) attributes.emplace_back("is_causal", std::int64_t{1});
  if (chain.flat) {
    attributes.emplace_back("q_num_heads", chain.heads);
    attributes.emplace_back("kv_num_heads", chain.kv_heads);
  }
  std::vector<Value*> inputs = {q, transposed_key(build, chain), chain.v};
  if (chain.mask != nullptr && !chain.causal) inputs.push_back(mask_of(build, chain));
  Value* made = build.add("Attention", std::move(inputs), chain.output->type(), std::move(attributes));
  replace_and_erase(graph, *last, *made);
}

class FuseAttention final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (const Attention& attention : find_attention_products(graph)) {
      const std::string label = attention.softmax->label();
      if (graph.opset() < 23) {
        context.skipped(label, "Attention needs opset 23, the model has " + std::to_string(graph.opset()));
        continue;
      }
      std::string why;
      const auto chain = attention_chain(attention, why);
      if (!chain) {
        context.skipped(label, why);
        continue;
      }
      rewrite(graph, *chain);
      context.applied(label, chain->flat ? "Attention of rank 3" : "Attention of rank 4");
      changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_fuse_attention(const PassOptions&) { return std::make_unique<FuseAttention>(); }

}  // namespace onnxfold
