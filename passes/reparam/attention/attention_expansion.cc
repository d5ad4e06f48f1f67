#include "passes/reparam/attention/attention_expansion.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ir/match.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

using Shape = std::vector<Dim>;

constexpr double kHidden = -std::numeric_limits<double>::infinity();
// Triangles up to this many elements are constants, others are computed.
constexpr std::int64_t kLargestTriangle = std::int64_t{1} << 20;

Dim known(std::int64_t size) { return Dim{size, "", ""}; }

Dim dim(const Value* value, std::size_t axis) { return (*value->type().shape)[axis]; }

Attribute perm(std::vector<std::int64_t> order) { return {"perm", std::move(order)}; }

// Whether a mask of numbers has no minus infinity for sure: then every row sees something.
bool surely_finite(const Value* value) {
  if (const Tensor* tensor = constant(value)) {
    const auto numbers = to_doubles(*tensor);
    return numbers && std::all_of(numbers->begin(), numbers->end(), [](double x) { return std::isfinite(x); });
  }
  const Node* node = value->producer();
  if (node == nullptr) return false;
  if (node->is("Where")) return surely_finite(node->input(1)) && surely_finite(node->input(2));
  for (const char* op : {"Expand", "Reshape", "Unsqueeze", "Identity", "Slice"}) {
    if (node->is(op)) return surely_finite(node->input(0));
  }
  return false;
}

class Expansion {
 public:
  Expansion(ChainBuilder& build, const AttentionSpec& spec) : b_(build), s_(spec), dtype_(spec.q->dtype()) {}

  ExpandedAttention write() {
    ExpandedAttention made;
    Value* q = split(s_.q, s_.heads);
    made.key = joined(s_.past_key, split(s_.k, s_.kv_heads));
    made.value = joined(s_.past_value, split(s_.v, s_.kv_heads));
    keys_ = dim(made.key, 2);
    Value *k = repeated(made.key), *v = repeated(made.value);
    std::vector<Attribute> swap;
    swap.push_back(perm({0, 1, 3, 2}));
    Value* kt =
        b_.add("Transpose", {k}, Type::tensor(dtype_, Shape{dim(k, 0), dim(k, 1), dim(k, 3), keys_}), std::move(swap));
    scores_ = Shape{dim(q, 0), known(s_.heads), dim(q, 2), keys_};
    Value* scaled = s_.scale == 1 ? q : b_.map("Mul", {q, b_.scalar(s_.scale, dtype_)});
    made.scores = b_.add("MatMul", {scaled, kt}, Type::tensor(dtype_, scores_));
    made.probabilities = softmax(capped(made.scores), q, made.key);
    made.output = heads_joined(b_.add("MatMul", {made.probabilities, v},
                                      Type::tensor(dtype_, Shape{scores_[0], scores_[1], scores_[2], dim(v, 3)})));
    return made;
  }

 private:
  // [B, S, H * D] => [B, H, S, D]
  Value* split(Value* x, std::int64_t heads) {
    if (x->rank() == 4) return x;
    const Dim all = dim(x, 2), width = all.known() ? known(*all.value / heads) : Dim{};
    Value* apart = b_.add("Reshape", {x, b_.ints({0, 0, heads, width.known() ? *width.value : -1})},
                          Type::tensor(dtype_, Shape{dim(x, 0), dim(x, 1), known(heads), width}));
    std::vector<Attribute> order;
    order.push_back(perm({0, 2, 1, 3}));
    return b_.add("Transpose", {apart}, Type::tensor(dtype_, Shape{dim(x, 0), known(heads), dim(x, 1), width}),
                  std::move(order));
  }

  // [B, H, S, D] => [B, S, H * D] when q came so.
  Value* heads_joined(Value* y) {
    if (s_.q->rank() == 4) return y;
    std::vector<Attribute> order;
    order.push_back(perm({0, 2, 1, 3}));
    const Dim width = dim(y, 3), all = width.known() ? known(*width.value * s_.heads) : Dim{};
    Value* turned =
        b_.add("Transpose", {y}, Type::tensor(dtype_, Shape{dim(y, 0), dim(y, 2), dim(y, 1), width}), std::move(order));
    return b_.add("Reshape", {turned, b_.ints({0, 0, all.known() ? *all.value : -1})},
                  Type::tensor(dtype_, Shape{dim(y, 0), dim(y, 2), all}));
  }

  Value* joined(Value* past, Value* fresh) {
    if (past == nullptr) return fresh;
    Shape shape = *fresh->type().shape;
    const bool counted = past->rank() == 4 && dim(past, 2).known() && shape[2].known();
    shape[2] = counted ? known(*dim(past, 2).value + *shape[2].value) : Dim{};
    std::vector<Attribute> axis;
    axis.emplace_back("axis", std::int64_t{2});
    return b_.add("Concat", {past, fresh}, Type::tensor(dtype_, std::move(shape)), std::move(axis));
  }

  // Every head of k and v stands for heads / kv_heads neighbours of q.
  Value* repeated(Value* x) {
    if (s_.heads == s_.kv_heads) return x;
    const std::int64_t times = s_.heads / s_.kv_heads;
    const Dim batch = dim(x, 0), rows = dim(x, 2), width = dim(x, 3);
    Value* apart = b_.add("Unsqueeze", {x, b_.ints({2})},
                          Type::tensor(dtype_, Shape{batch, known(s_.kv_heads), known(1), rows, width}));
    Value* wide = b_.add("Expand", {apart, b_.ints({1, 1, times, 1, 1})},
                         Type::tensor(dtype_, Shape{batch, known(s_.kv_heads), known(times), rows, width}));
    // [B, kv, times, T, D] => [B, heads, T, D]: sizes that are not known are copied from x.
    const Type type = Type::tensor(dtype_, Shape{batch, known(s_.heads), rows, width});
    if (width.known()) return b_.add("Reshape", {wide, b_.ints({0, s_.heads, -1, *width.value})}, type);
    std::vector<Attribute> axis;
    axis.emplace_back("axis", std::int64_t{0});
    Value* target = b_.add("Concat", {b_.ints({0, s_.heads}), extent(x, 2), extent(x, 3)},
                           Type::tensor(DType::kInt64, Dims{4}), std::move(axis));
    return b_.add("Reshape", {wide, target}, type);
  }

  // int64[1]
  Value* extent(Value* x, std::int64_t axis) {
    Value* shape = b_.add("Shape", {x}, Type::tensor(DType::kInt64, Dims{*x->rank()}));
    return b_.add("Gather", {shape, b_.ints({axis})}, Type::tensor(DType::kInt64, Dims{1}));
  }

  Value* scalar_extent(Value* x, std::int64_t axis) {
    return b_.add("Squeeze", {extent(x, axis)}, Type::tensor(DType::kInt64, Dims{}));
  }

  Value* capped(Value* scores) {
    if (s_.softcap == 0) return scores;
    Value* cap = b_.scalar(s_.softcap, dtype_);
    return b_.map("Mul", {b_.map("Tanh", {b_.map("Div", {scores, cap})}), cap});
  }

  // [queries, keys]: whether a query sees a key that is not after it.
  Value* triangle(Value* q, Value* key) {
    const Dim rows = scores_[2], past = s_.past_key == nullptr ? known(0) : dim(s_.past_key, 2);
    const Type type = Type::tensor(DType::kBool, Shape{rows, keys_});
    if (rows.known() && keys_.known() && past.known() && *rows.value * *keys_.value <= kLargestTriangle) {
      return constant_triangle(*rows.value, *keys_.value, *past.value);
    }
    const Type line = Type::tensor(DType::kInt64, Shape{Dim{}}),
               column = Type::tensor(DType::kInt64, Shape{Dim{}, known(1)});
    Value *zero = integer(0), *one = integer(1), *first = zero, *end = scalar_extent(q, 2);
    if (s_.past_key != nullptr) {
      first = scalar_extent(s_.past_key, 2);
      end = b_.map("Add", {first, end});
    }
    Value* at = b_.add("Reshape", {b_.add("Range", {first, end, one}, line), b_.ints({-1, 1})}, column);
    return b_.add("LessOrEqual", {b_.add("Range", {zero, scalar_extent(key, 2), one}, line), at}, type);
  }

  Value* integer(std::int64_t number) { return b_.constant(Tensor::scalar(number)); }

  Value* constant_triangle(std::int64_t rows, std::int64_t keys, std::int64_t past) {
    Buffer seen(static_cast<std::size_t>(rows * keys));
    for (std::size_t i = 0; i < seen.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      seen[i] = std::byte{static_cast<unsigned char>(at % keys <= at / keys + past)};
    }
    return b_.constant(Tensor::owned(DType::kBool, {rows, keys}, std::move(seen)));
  }

  Value* chosen(Value* seen, Value* numbers, double otherwise, Type type) {
    return b_.add("Where", {seen, numbers, b_.scalar(otherwise, dtype_)}, std::move(type));
  }

  Value* softmax(Value* scores, Value* q, Value* key) {
    Value* allowed = s_.causal ? triangle(q, key) : nullptr;
    Value* shown = nullptr;  // false where a row may be of no visible key
    const Type type = Type::tensor(dtype_, scores_);
    if (s_.mask != nullptr && s_.mask->dtype() == DType::kBool) {
      shown = s_.mask;
      if (allowed != nullptr) shown = b_.add("And", {shown, allowed}, Type::tensor(DType::kBool));
      scores = chosen(shown, scores, kHidden, type);
    } else if (s_.mask != nullptr) {
      Value* mask = s_.mask;
      if (allowed != nullptr) mask = chosen(allowed, mask, kHidden, Type::tensor(dtype_));
      if (!surely_finite(s_.mask)) shown = any_seen(mask);
      scores = b_.add("Add", {scores, mask}, type);
    } else if (allowed != nullptr) {
      scores = chosen(allowed, scores, kHidden, type);
    }
    const DType inner = s_.softmax_type == DType::kUndefined ? dtype_ : s_.softmax_type;
    std::vector<Attribute> last;
    last.emplace_back("axis", std::int64_t{-1});
    Value* p =
        b_.cast(b_.add("Softmax", {b_.cast(scores, inner)}, Type::tensor(inner, scores_), std::move(last)), dtype_);
    // Softmax of nothing but minus infinities is no number.
    return shown == nullptr ? p : chosen(shown, p, 0, type);
  }

  // Whether a row of the mask has a number above minus infinity.
  Value* any_seen(Value* mask) {
    std::vector<Value*> inputs = {mask};
    std::vector<Attribute> attributes;
    if (b_.opset() >= 18) {
      inputs.push_back(b_.ints({-1}));
    } else {
      attributes.emplace_back("axes", std::vector<std::int64_t>{-1});
    }
    Value* largest = b_.add("ReduceMax", std::move(inputs), Type::tensor(dtype_), std::move(attributes));
    return b_.add("Greater", {largest, b_.scalar(kHidden, dtype_)}, Type::tensor(DType::kBool));
  }

  ChainBuilder& b_;
  const AttentionSpec& s_;
  DType dtype_;
  Dim keys_;
  Shape scores_;
};

}  // namespace

ExpandedAttention expand_attention(ChainBuilder& build, const AttentionSpec& spec) {
  return Expansion(build, spec).write();
}

}  // namespace onnxfold
