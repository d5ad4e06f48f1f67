#include "passes/reparam/linear/affine_term.h"

#include <algorithm>
#include <cmath>

#include "ir/match.h"
#include "passes/last_axis.h"

namespace onnxfold {
namespace {

constexpr std::size_t kMaxSteps = 16;

bool inert(const Node& node, std::int64_t width) {
  return (node.is("Identity") || node.is("Dropout")) && keeps_last_axis(node, width);
}

// Mul, Div, Add, Sub with one constant; Neg.
std::optional<AffineStep> arithmetic(const Node& node, std::int64_t width) {
  AffineStep step;
  step.before = node.input(0);
  if (node.is("Neg")) {
    step.factor = -1;
    return step;
  }
  const bool mul = node.is("Mul"), div = node.is("Div"), add = node.is("Add"), sub = node.is("Sub");
  if (!mul && !div && !add && !sub) return {};
  const std::size_t at = constant(node.input(0)) != nullptr && !div ? 0 : 1;
  step.before = node.input(1 - at);
  if (step.before == nullptr || constant(step.before) != nullptr) return {};
  auto numbers = last_axis_numbers(node.input(at), width, step.before->rank());
  if (!numbers) return {};
  if (sub && at == 0) step.factor = -1;  // c - x
  if (sub && at == 1) {
    for (double& number : *numbers) number = -number;
  }
  if (div) {
    for (double& number : *numbers) number = 1 / number;
    if (!std::all_of(numbers->begin(), numbers->end(), [](double number) { return std::isfinite(number); })) return {};
  }
  (mul || div ? step.scale : step.shift) = std::move(numbers);
  return step;
}

}  // namespace

AffineTerm affine_term(Value& value, std::int64_t width, bool own) {
  AffineTerm term;
  term.value = &value;
  Value* at = &value;
  while (own && term.steps.size() < kMaxSteps) {
    const Node* node = at->producer();
    if (node == nullptr || node->graph() != value.graph()) break;
    AffineStep step;
    if (auto linear = linear_making(at)) {
      if (linear->out != width) break;
      step.before = linear->input;
      width = linear->in;
      step.linear = linear;
    } else if (inert(*node, width)) {
      step.before = node->input(0);
    } else if (auto found = arithmetic(*node, width)) {
      step = std::move(*found);
    } else {
      break;
    }
    at = step.before;
    term.steps.push_back(std::move(step));
    own = sole_consumer(at) != nullptr;
  }
  return term;
}

AffineMap outline(const AffineTerm& term, std::size_t count, std::int64_t width) {
  AffineMap map;
  map.input = term.value;
  map.numbers.in = map.numbers.out = width;
  for (std::size_t i = 0; i < count; ++i) {
    const AffineStep& step = term.steps[i];
    map.input = step.before;
    if (!step.linear) {
      ++map.nodes;
      continue;
    }
    map.numbers.in = step.linear->in;
    map.work += step.linear->in * step.linear->out;
    map.nodes += step.linear->bias_add != nullptr ? 2 : 1;
    map.shared += shared_bytes(*step.linear);
    ++map.linears;
  }
  return map;
}

namespace {

// map := step of map.
Status append(LinearNumbers& map, const AffineStep& step) {
  const auto add = [&](const Numbers& shift) {
    if (!map.bias) map.bias = Numbers(shift.size(), 0.0);
    for (std::size_t i = 0; i < shift.size(); ++i) (*map.bias)[i] += shift[i];
  };
  if (step.linear) {
    OF_ASSIGN(LinearNumbers next, linear_numbers(*step.linear));
    if (map.bias) {
      OF_ASSIGN(map.bias, row_times(*map.bias, next.weight));
    }
    if (next.bias) add(*next.bias);
    map.weight = map.weight ? product(std::move(map.weight), std::move(next.weight)) : std::move(next.weight);
    map.out = next.out;
    return {};
  }
  std::optional<Numbers> scale = step.scale;
  if (step.factor != 1) {
    if (!scale) scale = Numbers(static_cast<std::size_t>(map.out), 1.0);
    for (double& number : *scale) number *= step.factor;
  }
  if (scale) {
    for (std::size_t i = 0; map.bias && i < scale->size(); ++i) (*map.bias)[i] *= (*scale)[i];
    if (!map.weight) map.weight = lazy_identity(map.out);
    map.weight = scaled_columns(std::move(map.weight), std::move(*scale));
  }
  if (step.shift) add(*step.shift);
  return {};
}

}  // namespace

Result<AffineMap> affine_map(const AffineTerm& term, std::size_t count, std::int64_t width, DType dtype) {
  AffineMap map = outline(term, count, width);
  map.numbers.out = map.numbers.in;
  map.numbers.dtype = dtype;
  for (std::size_t i = count; i-- > 0;) OF_TRY(append(map.numbers, term.steps[i]));
  if (!map.numbers.weight) map.numbers.weight = lazy_identity(map.numbers.in);
  return map;
}

}  // namespace onnxfold
