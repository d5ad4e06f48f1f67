#include "passes/reparam/attention/attention_chain.h"

#include <algorithm>

#include "ir/intended_number.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

using Order = std::vector<std::int64_t>;
const Order kSwapHeads = {0, 2, 1, 3};

std::optional<double> factor(const Node& node, Value*& data) {
  const auto number = [](const Value* value) -> std::optional<double> {
    const auto scalar = scalar_constant(value);
    if (!scalar || value->constant()->rank() > 1 || !is_float(value->dtype())) return {};
    return value->dtype() == DType::kFloat32 ? intended_number(static_cast<float>(*scalar)) : *scalar;
  };
  const bool mul = node.is("Mul");
  if (!mul && !node.is("Div")) return {};
  for (const std::size_t i : {std::size_t{1}, std::size_t{0}}) {
    const auto scalar = number(node.input(i));
    if (!scalar || (!mul && (i == 0 || *scalar == 0))) continue;
    data = node.input(1 - i);
    return mul ? *scalar : 1 / *scalar;
  }
  return {};
}

// Takes scalar factors off a value that nobody else reads.
Value* without_factors(Value* value, double& scale) {
  while (value->producer() != nullptr && sole_consumer(value) != nullptr) {
    Value* data = nullptr;
    const auto number = factor(*value->producer(), data);
    if (!number || data->rank() != value->rank()) return value;
    scale *= *number;
    value = data;
  }
  return value;
}

bool same_dim(const Dim& a, const Dim& b) {
  if (a.known() && b.known()) return *a.value == *b.value;
  return !a.known() && !b.known() && !a.symbol.empty() && a.symbol == b.symbol;
}

std::int64_t known_dim(const Value* value, std::size_t axis) {
  const auto& shape = value->type().shape;
  return shape && axis < shape->size() && (*shape)[axis].known() ? *(*shape)[axis].value : 0;
}

std::optional<Order> order_of(const Node* transpose) {
  if (transpose == nullptr || !transpose->is("Transpose")) return {};
  return transpose->attr_ints("perm");
}

// MatMul would repeat a batch of 1, the operator does not. Two sizes that are not known are taken to be equal: the
// operator accepts no others.
bool same_batch(const Value* a, const Value* b) {
  const Dim &left = (*a->type().shape)[0], &right = (*b->type().shape)[0];
  return same_dim(left, right) || (!left.known() && !right.known());
}

// Batch and positions of [B, S, H, D] and [B, S, H * D] agree, one of them at most unproven.
bool same_leading(const Value* four, const Value* three) {
  const auto &a = *four->type().shape, &b = *three->type().shape;
  int unproven = 0;
  for (std::size_t i = 0; i < 2; ++i) {
    if (same_dim(a[i], b[i])) continue;
    if (a[i].known() && b[i].known()) return false;
    ++unproven;
  }
  return unproven <= 1;
}

bool is_flattening(const Value* four, const Value* three) {
  if (four->rank() != 4 || three->rank() != 3) return false;
  const std::int64_t heads = known_dim(four, 2), width = known_dim(four, 3);
  return heads > 0 && width > 0 && known_dim(three, 2) == heads * width && same_leading(four, three);
}

// x of Transpose<0, 2, 1, 3>(Reshape(x, [B, S, H, D])); null when it is something else.
Value* flattened(const Value* operand) {
  if (order_of(operand->producer()) != kSwapHeads) return nullptr;
  const Value* four = operand->producer()->input(0);
  const Node* reshape = four->producer();
  if (reshape == nullptr || !reshape->is("Reshape")) return nullptr;
  return is_flattening(four, reshape->input(0)) ? reshape->input(0) : nullptr;
}

// x of Reshape(Expand(Unsqueeze(x, 2), [B, kv, repeats, S, D]), [B, kv * repeats, S, D]), else the operand itself.
Value* before_repetition(Value* operand) {
  const Node* reshape = operand->producer();
  if (reshape == nullptr || !reshape->is("Reshape")) return operand;
  const Node* expand = reshape->input(0)->producer();
  if (expand == nullptr || !expand->is("Expand") || expand->output()->rank() != 5) return operand;
  const Node* unsqueeze = expand->input(0)->producer();
  if (unsqueeze == nullptr || !unsqueeze->is("Unsqueeze")) return operand;
  auto axes = unsqueeze->attr_ints("axes");
  if (!axes) axes = int_constants(unsqueeze->input(1));
  Value *x = unsqueeze->input(0), *wide = expand->output();
  const std::int64_t heads = known_dim(x, 1), width = known_dim(x, 3);
  const bool repeats = axes == Order{2} && x->rank() == 4 && heads > 0 && width > 0 && known_dim(wide, 1) == heads &&
                       known_dim(wide, 4) == width && same_dim((*x->type().shape)[2], (*wide->type().shape)[3]);
  const bool kept = known_dim(operand, 1) == heads * known_dim(wide, 2) && known_dim(operand, 3) == width;
  return repeats && kept ? x : operand;
}

class Reader {
 public:
  Reader(const Attention& attention, std::string& why) : a_(attention), why_(why) {}

  std::optional<AttentionChain> read() {
    if (!walk_scores() || !operands() || !mask_fits()) return {};
    flatten();
    return chain_;
  }

 private:
  bool fail(std::string why) {
    why_ = std::move(why);
    return false;
  }

  // From the Softmax back to the product.
  bool walk_scores() {
    if (!a_.score_product->is("MatMul") || !a_.context_product->is("MatMul")) return fail("a product is no MatMul");
    if (sole_consumer(a_.softmax->output()) != a_.context_product) return fail("its probabilities have another reader");
    bool scaled = false;
    for (Value* at = a_.softmax->input(0); at->producer() != a_.score_product;) {
      Node* node = at->producer();
      if (node == nullptr || sole_consumer(at) == nullptr) return fail("its scores have another reader");
      Value* data = nullptr;
      if (const auto number = factor(*node, data)) {
        chain_.scale *= *number;
        scaled = true;
      } else if (node->is("Add") || node->is("Where")) {
        if (chain_.mask != nullptr) return fail("it has more than one mask");
        if (scaled) return fail("its mask is scaled");
        data = node->is("Add") ? added_mask(*node) : chosen_mask(*node);
        if (data == nullptr) return fail("its mask is not understood");
      } else {
        return fail("there is a " + node->op_type() + " between product and Softmax");
      }
      at = data;
    }
    return sole_consumer(a_.score_product->output()) != nullptr || fail("its scores have another reader");
  }

  // Scores that go on behind the mask.
  Value* added_mask(const Node& add) {
    for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
      if (std::find(a_.masks.begin(), a_.masks.end(), add.input(i)) == a_.masks.end()) continue;
      chain_.mask = add.input(i);
      return add.input(1 - i);
    }
    return nullptr;
  }

  Value* chosen_mask(const Node& where) {
    for (const std::size_t i : {std::size_t{1}, std::size_t{2}}) {
      const auto hidden = scalar_constant(where.input(i));
      // Added to any score it must swallow it, or a row that is hidden as a whole would come out otherwise.
      if (!hidden || !(*hidden < -1e30)) continue;
      chain_.mask = where.input(0);
      chain_.hidden = hidden;
      chain_.hidden_where_true = i == 1;
      return where.input(3 - i);
    }
    return nullptr;
  }

  bool operands() {
    Value *q = a_.score_product->input(0), *k = a_.score_product->input(1), *v = a_.context_product->input(1);
    if (q->rank() != 4 || k->rank() != 4 || v->rank() != 4) return fail("its operands are not of rank 4");
    if (!same_batch(q, k) || !same_batch(q, v)) return fail("its operands are of different batches");
    const DType dtype = q->dtype();
    if (!is_float(dtype) || k->dtype() != dtype || v->dtype() != dtype || a_.softmax->output()->dtype() != dtype) {
      return fail("its operands are of different types");
    }
    chain_.q = without_factors(q, chain_.scale);
    k = without_factors(k, chain_.scale);
    Order order = {0, 1, 3, 2};
    if (auto made = order_of(k->producer()); made && made->size() == 4) {
      std::swap((*made)[2], (*made)[3]);
      order = *made;
      k = k->producer()->input(0);
      if (order == Order{0, 1, 2, 3}) k = without_factors(k, chain_.scale);
    }
    if (order == Order{0, 1, 2, 3}) order.clear();
    chain_.k = k;
    chain_.key_order = order;
    chain_.v = v;
    chain_.heads = chain_.kv_heads = known_dim(chain_.q, 1);
    chain_.head_width = known_dim(chain_.q, 3);
    if (chain_.heads == 0 || known_dim(v, 1) != chain_.heads ||
        known_dim(a_.score_product->input(1), 1) != chain_.heads) {
      return fail("the number of heads is not known");
    }
    if (chain_.head_width == 0) return fail("the width of a head is not known");
    share_heads();
    chain_.output = a_.context;
    return true;
  }

  // Grouped queries: the operator repeats the heads of k and v itself.
  void share_heads() {
    if (!chain_.key_order.empty()) return;
    Value *k = before_repetition(chain_.k), *v = before_repetition(chain_.v);
    if (k == chain_.k || v == chain_.v || known_dim(k, 1) != known_dim(v, 1)) return;
    chain_.k = k;
    chain_.v = v;
    chain_.kv_heads = known_dim(k, 1);
  }

  bool mask_fits() {
    if (chain_.mask == nullptr) return true;
    const auto &mask = chain_.mask->type().shape, &scores = a_.score_product->output()->type().shape;
    if (!mask || !scores || scores->size() != 4 || mask->size() > 4 || mask->size() < 2) {
      return fail("the rank of its mask does not fit");
    }
    if (!chain_.hidden && chain_.mask->dtype() != chain_.q->dtype()) return fail("its mask is of another type");
    for (std::size_t i = 0; i < mask->size(); ++i) {
      const Dim &m = (*mask)[i], &s = (*scores)[i + 4 - mask->size()];
      if (m.known() && *m.value == 1) continue;
      // A dimension that is not known is taken to fit: the operator accepts no other.
      if (s.known() && *s.value == 1 && !(m.known() && *m.value == 1)) return fail("its mask would repeat the scores");
      if (s.known() && m.known() && *s.value != *m.value) return fail("its mask does not fit the scores");
    }
    const Dim &rows = (*mask)[mask->size() - 2], &positions = (*scores)[2];
    chain_.expand_mask = !same_dim(rows, positions);
    if (!same_dim(mask->back(), scores->back()) && mask->back().known() && *mask->back().value == 1) {
      return fail("its mask has one column");
    }
    is_causal(*scores);
    return true;
  }

  // A constant [S, S] (and leading ones) of zeros up to the diagonal and of -inf after it.
  void is_causal(const std::vector<Dim>& scores) {
    const Tensor* tensor = constant(chain_.mask);
    if (tensor == nullptr || chain_.hidden || !scores[2].known() || !same_dim(scores[2], scores[3])) return;
    const std::int64_t size = *scores[2].value;
    if (tensor->size() != size * size || tensor->size() > (1 << 24)) return;
    const auto numbers = to_doubles(*tensor);
    if (!numbers) return;
    for (std::int64_t row = 0; row < size; ++row) {
      for (std::int64_t column = 0; column < size; ++column) {
        const double number = (*numbers)[static_cast<std::size_t>(row * size + column)];
        if (column <= row ? number != 0 : !(number < -1e30)) return;
      }
    }
    chain_.causal = true;
  }

  // Heads may stay side by side when q, k, v and the result all are reshaped from and to that.
  void flatten() {
    const Node* transpose = sole_consumer(chain_.output);
    if (order_of(transpose) != kSwapHeads) return;
    const Node* reshape = sole_consumer(transpose->output());
    if (reshape == nullptr || !reshape->is("Reshape") || !is_flattening(transpose->output(), reshape->output())) return;
    Value *q = flattened(chain_.q), *v = flattened(chain_.v), *k = nullptr;
    if (chain_.key_order.empty()) {
      k = flattened(chain_.k);
    } else if (chain_.key_order == kSwapHeads) {
      const Node* split = chain_.k->producer();
      if (split != nullptr && split->is("Reshape") && is_flattening(chain_.k, split->input(0))) k = split->input(0);
    }
    if (q == nullptr || k == nullptr || v == nullptr) return;
    chain_.q = q;
    chain_.k = k;
    chain_.v = v;
    chain_.key_order.clear();
    chain_.flat = true;
    chain_.output = reshape->output();
  }

  const Attention& a_;
  std::string& why_;
  AttentionChain chain_;
};

}  // namespace

std::optional<AttentionChain> attention_chain(const Attention& attention, std::string& why) {
  return Reader(attention, why).read();
}

}  // namespace onnxfold
