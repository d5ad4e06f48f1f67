#include "analysis/structure/norm.h"

#include <algorithm>
#include <cmath>

#include "analysis/structure/linear.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

// Follows a chain forward. Values inside the chain may be read by chain nodes only; that is checked at the end, when
// all members are known.
class ChainMatcher {
 public:
  std::optional<Norm> match(const Node& reduce);

 private:
  std::optional<Norm> layer(Node& mean);
  std::optional<Norm> rms(Node& mean_square, Value* input);
  bool standard_deviation(Value* variance);    // Add eps, Sqrt or Pow; sets deviation_
  Value* divide(Value* numerator);             // numerator / deviation_
  void affine(Norm& norm, Value* normalized);  // gain, bias
  Value* through_cast(Value* value);           // behind a Cast that only this chain reads
  void keep_shared_cast(Norm& norm);
  bool closed(const Norm& norm) const;

  Node* add(Node* node) {
    if (std::find(nodes_.begin(), nodes_.end(), node) == nodes_.end()) nodes_.push_back(node);
    return node;
  }

  std::vector<Node*> nodes_;
  Value* deviation_ = nullptr;
  bool reciprocal_ = false;  // deviation_ holds 1 / sqrt(...)
  double epsilon_ = 0;
};

bool over_last_axis(const Node& reduce) {
  if (reduce.attr_int("keepdims", 1) == 0) return false;
  auto axes = reduce.attr_ints("axes");
  if (!axes && reduce.input(1) != nullptr) axes = int_constants(reduce.input(1));
  if (!axes || axes->size() != 1) return false;
  const auto rank = reduce.input(0) != nullptr ? reduce.input(0)->rank() : std::nullopt;
  return axes->front() == -1 || (rank && axes->front() == *rank - 1);
}

// The node among the readers of `value` that is `op` and satisfies `accept`; null when none or several do.
template <typename Accept>
Node* reader(const Value* value, std::string_view op, Accept accept) {
  Node* found = nullptr;
  for (const Use& use : value->uses()) {
    if (use.node == nullptr || use.node->graph() != value->graph() || !use.node->is(op) || use.node == found) continue;
    if (!accept(*use.node)) continue;
    if (found != nullptr) return nullptr;
    found = use.node;
  }
  return found;
}

Node* reader(const Value* value, std::string_view op) {
  return reader(value, op, [](const Node&) { return true; });
}

Value* other_input(const Node& node, const Value* value) { return node.input(node.input(0) == value ? 1 : 0); }

// x*x or Pow(x, 2): the squared value, or null.
Value* squared(const Node& node) {
  if (node.is("Pow") && scalar_constant(node.input(1)) == 2.0) return node.input(0);
  if (node.is("Mul") && node.input(0) == node.input(1)) return node.input(0);
  return nullptr;
}

std::int64_t last_dim(const Value* value) {
  if (!value->type().shape || value->type().shape->empty()) return 0;
  const Dim& dim = value->type().shape->back();
  return dim.known() ? *dim.value : 0;
}

bool is_vector(Value* value, std::int64_t width) {
  const Tensor* tensor = constant(behind_identity(value));
  if (tensor == nullptr || !is_float(tensor->dtype()) || tensor->rank() == 0) return false;
  return tensor->dims().back() == tensor->size() && (width == 0 || tensor->size() == width) && tensor->size() > 1;
}

Value* ChainMatcher::through_cast(Value* value) {
  Node* cast = value->producer();
  if (cast == nullptr || !cast->is("Cast") || cast->input(0) == nullptr || !is_float(cast->input(0)->dtype())) {
    return value;
  }
  add(cast);
  return cast->input(0);
}

bool ChainMatcher::standard_deviation(Value* variance) {
  Node* plus = reader(variance, "Add",
                      [&](const Node& node) { return scalar_constant(other_input(node, variance)).has_value(); });
  if (plus == nullptr) return false;
  epsilon_ = *scalar_constant(other_input(*plus, variance));
  add(plus);
  if (Node* root = reader(plus->output(), "Sqrt")) {
    deviation_ = add(root)->output();
  } else if (Node* power = reader(plus->output(), "Pow")) {
    const auto exponent = scalar_constant(power->input(1));
    if (exponent != 0.5 && exponent != -0.5) return false;
    deviation_ = add(power)->output();
    reciprocal_ = *exponent < 0;
  } else {
    return false;
  }
  if (reciprocal_) return true;
  if (Node* inverse = reader(deviation_, "Reciprocal")) {
    deviation_ = add(inverse)->output();
    reciprocal_ = true;
  } else if (Node* one_over = reader(deviation_, "Div", [&](const Node& node) {
               return node.input(1) == deviation_ && scalar_constant(node.input(0)) == 1.0;
             })) {
    deviation_ = add(one_over)->output();
    reciprocal_ = true;
  }
  return true;
}

Value* ChainMatcher::divide(Value* numerator) {
  Node* node = nullptr;
  if (reciprocal_) {
    node = reader(numerator, "Mul", [&](const Node& mul) { return other_input(mul, numerator) == deviation_; });
  } else {
    node = reader(numerator, "Div",
                  [&](const Node& div) { return div.input(0) == numerator && div.input(1) == deviation_; });
  }
  return node == nullptr ? nullptr : add(node)->output();
}

void ChainMatcher::affine(Norm& norm, Value* normalized) {
  Value* at = normalized;
  const auto step_cast = [&] {
    Node* cast = sole_consumer(at);
    if (cast != nullptr && cast->is("Cast") && is_float(cast->output()->dtype())) at = add(cast)->output();
  };
  step_cast();
  Node* mul = sole_consumer(at);
  if (mul != nullptr && mul->is("Mul") && is_vector(other_input(*mul, at), norm.width)) {
    norm.gain = behind_identity(other_input(*mul, at));
    norm.width = constant(norm.gain)->size();
    at = add(mul)->output();
    step_cast();
  }
  Node* plus = sole_consumer(at);
  if (norm.kind == Norm::Kind::kLayer && plus != nullptr && plus->is("Add") &&
      is_vector(other_input(*plus, at), norm.width)) {
    norm.bias = behind_identity(other_input(*plus, at));
    at = add(plus)->output();
  }
  norm.output = at;
}

// Nobody outside reads a value inside, except the output.
bool ChainMatcher::closed(const Norm& norm) const {
  for (const Node* node : nodes_) {
    for (const Value* value : node->outputs()) {
      if (value == nullptr || value == norm.output || value == norm.input) continue;
      for (const Use& use : value->uses()) {
        if (use.node == nullptr || std::find(nodes_.begin(), nodes_.end(), use.node) == nodes_.end()) return false;
      }
    }
  }
  return true;
}

std::optional<Norm> ChainMatcher::layer(Node& mean) {
  Value* x = mean.input(0);
  add(&mean);
  Value* mean_value = mean.output();
  // One Sub, or two equal ones: some exporters write x - mean once for the square and once for the quotient.
  std::vector<Value*> centred;
  for (const Use& use : x->uses()) {
    Node* sub = use.node;
    if (sub == nullptr || !sub->is("Sub") || sub->input(0) != x || sub->input(1) != mean_value) continue;
    centred.push_back(add(sub)->output());
  }
  Value* variance = nullptr;
  for (Value* difference : centred) {
    for (const Use& use : difference->uses()) {
      if (use.node == nullptr || squared(*use.node) != difference) continue;
      Node* reduce = reader(use.node->output(), "ReduceMean", over_last_axis);
      if (reduce == nullptr) continue;
      add(use.node);
      variance = add(reduce)->output();
    }
  }
  if (variance == nullptr || !standard_deviation(variance)) return {};
  Norm norm;
  norm.width = last_dim(x);
  for (Value* difference : centred) {
    if (Value* quotient = divide(difference)) {
      norm.input = through_cast(x);
      affine(norm, quotient);
      return norm;
    }
  }
  return {};
}

std::optional<Norm> ChainMatcher::rms(Node& mean_square, Value* x) {
  add(mean_square.input(0)->producer());
  add(&mean_square);
  if (!standard_deviation(mean_square.output())) return {};
  Value* quotient = divide(x);
  if (quotient == nullptr) return {};
  Norm norm;
  norm.kind = Norm::Kind::kRms;
  norm.width = last_dim(x);
  norm.input = through_cast(x);
  affine(norm, quotient);
  return norm;
}

// x - mean(x): the square of this belongs to a LayerNorm, which is matched from its first ReduceMean.
bool is_centred(const Value* value) {
  const Node* sub = value->producer();
  if (sub == nullptr || !sub->is("Sub") || sub->input(1) == nullptr) return false;
  const Node* mean = sub->input(1)->producer();
  return mean != nullptr && mean->is("ReduceMean") && mean->input(0) == sub->input(0);
}

// A Cast before the chain that others read too (exporters let the residual Add read it) is no part of the norm.
void ChainMatcher::keep_shared_cast(Norm& norm) {
  for (const Node* cast : nodes_) {
    if (!cast->is("Cast") || cast->input(0) != norm.input) continue;
    const auto& uses = cast->output()->uses();
    const bool shared = std::any_of(uses.begin(), uses.end(), [&](const Use& use) {
      return use.node == nullptr || std::find(nodes_.begin(), nodes_.end(), use.node) == nodes_.end();
    });
    if (!shared) continue;
    norm.input = cast->output();
    std::erase(nodes_, cast);
    return;
  }
}

std::optional<Norm> ChainMatcher::match(const Node& reduce) {
  if (!reduce.is("ReduceMean") || reduce.input(0) == nullptr || !over_last_axis(reduce)) return {};
  auto& first = const_cast<Node&>(reduce);
  Node* producer = reduce.input(0)->producer();
  Value* square_of = producer == nullptr ? nullptr : squared(*producer);
  if (square_of != nullptr && is_centred(square_of)) return {};
  std::optional<Norm> norm = square_of != nullptr ? rms(first, square_of) : layer(first);
  if (!norm) return {};
  keep_shared_cast(*norm);
  std::sort(nodes_.begin(), nodes_.end(), [](const Node* a, const Node* b) { return a->graph()->before(*a, *b); });
  norm->nodes = nodes_;
  norm->epsilon = epsilon_;
  if (!closed(*norm)) return {};
  return norm;
}

std::optional<Norm> fused_norm(const Node& node) {
  Norm norm;
  norm.fused = true;
  norm.nodes = {const_cast<Node*>(&node)};
  norm.input = node.input(0);
  norm.output = node.output();
  norm.epsilon = static_cast<double>(node.attr_float("epsilon", 1e-5F));
  std::size_t gain = 1;
  std::size_t bias = 2;
  if (node.is("SkipLayerNormalization", "com.microsoft") ||
      node.is("SkipSimplifiedLayerNormalization", "com.microsoft")) {
    norm.skip = node.input(1);
    norm.sum = node.output(3);
    gain = 2;
    bias = 3;
    norm.sum_bias = node.input(node.is("SkipLayerNormalization", "com.microsoft") ? 4 : 3);
  } else {
    const auto rank = node.input(0) != nullptr ? node.input(0)->rank() : std::nullopt;
    const std::int64_t axis = node.attr_int("axis", -1);
    if (axis != -1 && !(rank && axis == *rank - 1)) return {};
  }
  const bool rms = node.op_type() == "RMSNormalization" || node.op_type() == "SimplifiedLayerNormalization" ||
                   node.op_type() == "SkipSimplifiedLayerNormalization";
  norm.kind = rms ? Norm::Kind::kRms : Norm::Kind::kLayer;
  if (!is_vector(node.input(gain), 0)) return {};
  norm.gain = behind_identity(node.input(gain));
  norm.width = constant(norm.gain)->size();
  if (!rms && node.input(bias) != nullptr) {
    if (!is_vector(node.input(bias), norm.width)) return {};
    norm.bias = behind_identity(node.input(bias));
  }
  return norm;
}

}  // namespace

std::optional<Norm> norm_at(const Node& node) {
  if (node.is("LayerNormalization") || node.is("RMSNormalization") || node.is("SimplifiedLayerNormalization") ||
      node.is("SimplifiedLayerNormalization", "com.microsoft") || node.is("SkipLayerNormalization", "com.microsoft") ||
      node.is("SkipSimplifiedLayerNormalization", "com.microsoft")) {
    return fused_norm(node);
  }
  return ChainMatcher().match(node);
}

std::vector<Norm> find_norms(const Graph& graph) {
  std::vector<Norm> found;
  for (const Node* node : graph.nodes()) {
    if (auto norm = norm_at(*node)) found.push_back(std::move(*norm));
  }
  return found;
}

}  // namespace onnxfold
