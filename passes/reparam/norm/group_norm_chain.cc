#include "passes/reparam/norm/group_norm_chain.h"

#include "ir/match.h"

namespace onnxfold {
namespace {

bool same_dim(const Dim& a, const Dim& b) {
  if (a.known() && b.known()) return *a.value == *b.value;
  return !a.known() && !b.known() && !a.symbol.empty() && a.symbol == b.symbol;
}

// The shape that Reshape `back` gives is the one `x` has.
bool restores(const Node& back, const Value& x) {
  const Node* shape = back.input(1) == nullptr ? nullptr : back.input(1)->producer();
  if (shape != nullptr && shape->is("Shape") && shape->input(0) == &x && shape->attributes().empty()) return true;
  const auto& to = back.output()->type().shape;
  const auto& from = x.type().shape;
  if (!to || !from || to->size() != from->size()) return false;
  int unproven = 0;  // one may be: the numbers of elements are equal
  for (std::size_t i = 0; i < to->size(); ++i) {
    if (same_dim((*to)[i], (*from)[i])) continue;
    if (((*to)[i].known() && (*from)[i].known()) || ++unproven > 1) return false;
  }
  if (unproven == 0) return true;
  for (const Dim& dim : *from) {
    if (dim.known() && *dim.value == 0) return false;
  }
  return true;
}

// [N, groups, anything] of x's N.
std::optional<std::int64_t> groups_of(const Node& split, const Value& x) {
  const auto& to = split.output()->type().shape;
  if (!to || to->size() != 3 || !(*to)[1].known()) return {};
  const auto target = int_constants(split.input(1));
  const bool copies = target && target->size() == 3 && (*target)[0] == 0 && split.attr_int("allowzero", 0) == 0;
  if (!copies && !same_dim((*to)[0], (*x.type().shape)[0])) return {};
  return (*to)[1].value;
}

// One number per channel of a value of `rank`, however many axes of size 1 stand around it.
Result<std::optional<std::vector<double>>> per_channel(const Value* value, std::size_t rank, std::int64_t channels) {
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || !is_float(tensor->dtype()) || tensor->size() != channels) return std::nullopt;
  const Dims& dims = tensor->dims();
  if (dims.size() > rank || dims.size() + 1 < rank) return std::nullopt;
  if (dims[dims.size() - (rank - 1)] != channels) return std::nullopt;
  OF_ASSIGN(std::vector<double> numbers, to_doubles(*tensor));
  return numbers;
}

Value* other_input(const Node& node, const Value* value) { return node.input(node.input(0) == value ? 1 : 0); }

}  // namespace

Result<std::optional<GroupNormChain>> group_norm_chain(Node& instance_norm) {
  Node* split = sole_producer(instance_norm.input(0), "Reshape");
  Node* back = sole_consumer(instance_norm.output());
  if (split == nullptr || back == nullptr || !back->is("Reshape")) return std::nullopt;
  Value* x = split->input(0);
  const Tensor *scale = constant(instance_norm.input(1)), *shift = constant(instance_norm.input(2));
  if (x == nullptr || !x->type().shape || x->type().shape->size() < 3 || !(*x->type().shape)[1].known() ||
      scale == nullptr || shift == nullptr || !restores(*back, *x)) {
    return std::nullopt;
  }
  const std::size_t rank = x->type().shape->size();
  const std::int64_t channels = *(*x->type().shape)[1].value;
  const auto groups = groups_of(*split, *x);
  if (!groups || *groups <= 0 || channels <= 0 || channels % *groups != 0) return std::nullopt;
  if (scale->size() != *groups || shift->size() != *groups) return std::nullopt;

  OF_ASSIGN(const std::vector<double> group_scale, to_doubles(*scale));
  OF_ASSIGN(const std::vector<double> group_shift, to_doubles(*shift));
  std::vector<double> gain, bias;
  for (std::int64_t c = 0; c < channels; ++c) {
    gain.push_back(group_scale[static_cast<std::size_t>(c * *groups / channels)]);
    bias.push_back(group_shift[static_cast<std::size_t>(c * *groups / channels)]);
  }
  GroupNormChain chain{x, back->output(), *groups, instance_norm.attr_float("epsilon", 1e-5F), {}, {}};
  if (Node* mul = sole_consumer(chain.output); mul != nullptr && mul->is("Mul")) {
    OF_ASSIGN(const auto factors, per_channel(other_input(*mul, chain.output), rank, channels));
    if (factors) {
      for (std::size_t c = 0; c < gain.size(); ++c) gain[c] *= (*factors)[c], bias[c] *= (*factors)[c];
      chain.output = mul->output();
    }
  }
  if (Node* add = sole_consumer(chain.output); add != nullptr && add->is("Add")) {
    OF_ASSIGN(const auto addends, per_channel(other_input(*add, chain.output), rank, channels));
    if (addends) {
      for (std::size_t c = 0; c < bias.size(); ++c) bias[c] += (*addends)[c];
      chain.output = add->output();
    }
  }
  OF_ASSIGN(chain.gain, from_doubles(x->dtype(), {channels}, gain));
  OF_ASSIGN(chain.bias, from_doubles(x->dtype(), {channels}, bias));
  return std::optional(std::move(chain));
}

}  // namespace onnxfold
