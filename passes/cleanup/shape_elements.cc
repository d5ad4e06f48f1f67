#include "passes/cleanup/shape_elements.h"

#include <algorithm>
#include <limits>

#include "ir/match.h"
#include "passes/cleanup/shapes.h"

namespace onnxfold {
namespace {

constexpr std::size_t kLongestTensor = 64;  // elements of a shape
constexpr std::size_t kLongestName = 256;   // characters of an expression

bool is_shape_type(DType dtype) { return dtype == DType::kInt64 || dtype == DType::kInt32 || dtype == DType::kBool; }

// `number` as the type holds it; nullopt when it does not fit.
std::optional<Element> number_in(DType dtype, __int128 number) {
  if (dtype == DType::kInt32 &&
      (number > std::numeric_limits<std::int32_t>::max() || number < std::numeric_limits<std::int32_t>::min())) {
    return std::nullopt;
  }
  if (number > std::numeric_limits<std::int64_t>::max() || number < std::numeric_limits<std::int64_t>::min()) {
    return std::nullopt;
  }
  return Element::of(static_cast<std::int64_t>(number));
}

std::string text_of(const Element& element) { return element.number ? std::to_string(*element.number) : element.name; }

// a op b when one side is neutral.
std::optional<Element> neutral(const std::string& op, const Element& a, const Element& b) {
  const std::int64_t unit = op == "Add" || op == "Sub" ? 0 : 1;
  if (op != "Add" && op != "Sub" && op != "Mul" && op != "Div") return std::nullopt;
  if (b.number == unit) return a;
  if (a.number == unit && (op == "Add" || op == "Mul")) return b;
  if (op == "Mul" && (a.number == 0 || b.number == 0)) return Element::of(0);
  if (op == "Sub" && a == b) return Element::of(0);
  return std::nullopt;
}

std::optional<Element> compare(const std::string& op, const Element& a, const Element& b) {
  if (a.number && b.number) {
    if (op == "Equal") return Element::of(*a.number == *b.number);
    if (op == "Less") return Element::of(*a.number < *b.number);
    return Element::of(*a.number > *b.number);
  }
  if (op != "Equal") return std::nullopt;
  if (a == b) return Element::of(1);
  // What is made of dimensions is rarely negative: the -1 that exporters compare with is not found in such a shape.
  if ((a.not_negative && b.number && *b.number < 0) || (b.not_negative && a.number && *a.number < 0))
    return Element::of(0);
  return std::nullopt;
}

bool not_negative(const Element& element) { return element.number ? *element.number >= 0 : element.not_negative; }

bool keeps_sign(const std::string& op) {
  return op == "Add" || op == "Mul" || op == "Div" || op == "Min" || op == "Max";
}

std::optional<Element> compute(const std::string& op, DType dtype, const Element& a, const Element& b) {
  if (op == "Equal" || op == "Less" || op == "Greater") return compare(op, a, b);
  if (a.number && b.number) {
    const __int128 x = *a.number, y = *b.number;
    if (op == "Add") return number_in(dtype, x + y);
    if (op == "Sub") return number_in(dtype, x - y);
    if (op == "Mul") return number_in(dtype, x * y);
    if (op == "Min") return number_in(dtype, std::min(x, y));
    if (op == "Max") return number_in(dtype, std::max(x, y));
    if (op == "Div" && y != 0) return number_in(dtype, x / y);
    return std::nullopt;
  }
  if (auto same = neutral(op, a, b)) return same;
  std::string left = text_of(a), right = text_of(b);
  const bool ordered = op == "Sub" || op == "Div";
  if (!ordered && right < left) std::swap(left, right);
  Element result;
  result.name = op + "(" + left + "," + right + ")";
  result.not_negative = keeps_sign(op) && not_negative(a) && not_negative(b);
  if (result.name.size() > kLongestName) return std::nullopt;
  return result;
}

}  // namespace

bool Elements::known() const {
  return std::all_of(items.begin(), items.end(), [](const Element& element) { return element.number.has_value(); });
}

Element dimension_of(const Value& value, std::size_t axis) {
  const Dim& dim = (*value.type().shape)[axis];
  if (dim.known()) return Element::of(*dim.value);
  if (!dim.value && !dim.symbol.empty()) return {std::nullopt, dim.symbol, true, true};
  return {std::nullopt, value.name() + "@" + std::to_string(axis), true, true};
}

void ShapeElements::visit(const Node& node) {
  if (!node.domain().empty() || node.outputs().size() != 1 || node.output() == nullptr) return;
  if (auto elements = evaluate(node)) {
    if (elements->items.size() <= kLongestTensor) known_.insert_or_assign(node.output(), std::move(*elements));
  }
}

const Elements* ShapeElements::find(const Value* value) {
  if (value == nullptr) return nullptr;
  if (const auto found = known_.find(value); found != known_.end()) return &found->second;
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || tensor->rank() > 1 || tensor->size() > static_cast<std::int64_t>(kLongestTensor) ||
      !is_shape_type(tensor->dtype())) {
    return nullptr;
  }
  const auto numbers = to_int64s(*tensor);
  if (!numbers) return nullptr;
  Elements elements;
  elements.scalar = tensor->rank() == 0;
  for (const std::int64_t number : *numbers) elements.items.push_back(Element::of(number));
  return &known_.emplace(value, std::move(elements)).first->second;
}

std::optional<Elements> ShapeElements::evaluate(const Node& node) {
  const std::string& op = node.op_type();
  if (op == "Shape") return shape(node);
  if (op == "Gather") return gather(node);
  if (op == "Slice") return slice(node);
  if (op == "Concat") return concat(node);
  if (op == "Where") return where(node);
  for (const std::string_view binary : {"Add", "Sub", "Mul", "Div", "Min", "Max", "Equal", "Less", "Greater"}) {
    if (op == binary) return arithmetic(node);
  }
  const Elements* source = find(node.input(0));
  if (source == nullptr) return std::nullopt;
  if (op == "Identity") return *source;
  if (op == "Cast") {
    const auto to = static_cast<DType>(node.attr_int("to", 0));
    const bool widening = to == DType::kInt64 && node.input(0)->dtype() == DType::kInt32;
    // A dimension fits in 32 bits as far as the model itself believes; other numbers must be seen to.
    const bool fits = std::all_of(source->items.begin(), source->items.end(), [](const Element& element) {
      return element.number ? number_in(DType::kInt32, *element.number).has_value() : element.dimension;
    });
    const bool same = to == node.input(0)->dtype();
    if (!is_shape_type(to) || to == DType::kBool || node.input(0)->dtype() == DType::kBool) return std::nullopt;
    if (!same && !widening && !fits) return std::nullopt;
    return *source;
  }
  if (op == "Unsqueeze" && source->scalar) {
    const auto axes = stated_axes(node, 1);
    if (axes && axes->size() == 1) return Elements{source->items, false};
  }
  if ((op == "Squeeze" || op == "Reshape") && node.output()->rank() && *node.output()->rank() <= 1) {
    const bool scalar = *node.output()->rank() == 0;
    if (!scalar || source->items.size() == 1) return Elements{source->items, scalar};
  }
  return std::nullopt;
}

std::optional<Elements> ShapeElements::shape(const Node& node) const {
  const Value* input = node.input(0);
  if (input == nullptr || !input->type().is_tensor() || !input->type().shape) return std::nullopt;
  const auto rank = static_cast<std::int64_t>(input->type().shape->size());
  const auto clamp = [&](std::int64_t axis) {
    return std::clamp<std::int64_t>(axis < 0 ? axis + rank : axis, 0, rank);
  };
  const std::int64_t start = clamp(node.attr_int("start", 0)), end = clamp(node.attr_int("end", rank));
  Elements result;
  for (std::int64_t axis = start; axis < end; ++axis) {
    result.items.push_back(dimension_of(*input, static_cast<std::size_t>(axis)));
  }
  return result;
}

std::optional<Elements> ShapeElements::gather(const Node& node) {
  const Elements* indices = find(node.input(1));
  const Elements* data = find(node.input(0));
  if (data == nullptr || indices == nullptr || data->scalar || !indices->known()) return std::nullopt;
  const auto count = static_cast<std::int64_t>(data->items.size());
  Elements result;
  result.scalar = indices->scalar;
  for (const Element& index : indices->items) {
    const std::int64_t at = *index.number < 0 ? *index.number + count : *index.number;
    if (at < 0 || at >= count) return std::nullopt;
    result.items.push_back(data->items[static_cast<std::size_t>(at)]);
  }
  return result;
}

std::optional<Elements> ShapeElements::slice(const Node& node) {
  const Elements* data = find(node.input(0));
  const auto starts = node.opset() < 10 ? node.attr_ints("starts") : int_constants(node.input(1));
  const auto ends = node.opset() < 10 ? node.attr_ints("ends") : int_constants(node.input(2));
  const auto steps = node.input(4) == nullptr ? std::vector<std::int64_t>{1} : int_constants(node.input(4));
  if (data == nullptr || data->scalar || !starts || !ends || !steps) return std::nullopt;
  if (starts->size() != 1 || ends->size() != 1 || *steps != std::vector<std::int64_t>{1}) return std::nullopt;
  const auto count = static_cast<std::int64_t>(data->items.size());
  const auto place = [&](std::int64_t at) { return std::clamp<std::int64_t>(at < 0 ? at + count : at, 0, count); };
  Elements result;
  for (std::int64_t at = place((*starts)[0]); at < place((*ends)[0]); ++at) {
    result.items.push_back(data->items[static_cast<std::size_t>(at)]);
  }
  return result;
}

std::optional<Elements> ShapeElements::concat(const Node& node) {
  Elements result;
  for (const Value* input : node.inputs()) {
    const Elements* part = find(input);
    if (part == nullptr || part->scalar) return std::nullopt;
    result.items.insert(result.items.end(), part->items.begin(), part->items.end());
    if (result.items.size() > kLongestTensor) return std::nullopt;
  }
  return result;
}

std::optional<Elements> ShapeElements::arithmetic(const Node& node) {
  if (node.inputs().size() != 2) return std::nullopt;
  const DType dtype = node.input(0) == nullptr ? DType::kUndefined : node.input(0)->dtype();
  if (find(node.input(0)) == nullptr || find(node.input(1)) == nullptr || !is_shape_type(dtype)) return std::nullopt;
  const Elements a = *find(node.input(0)), b = *find(node.input(1));
  const std::size_t n = a.items.size(), m = b.items.size();
  if (n == 0 || m == 0 || (n != m && n != 1 && m != 1)) return std::nullopt;
  Elements result;
  result.scalar = a.scalar && b.scalar;
  for (std::size_t i = 0; i < std::max(n, m); ++i) {
    auto element = compute(node.op_type(), dtype, a.items[n == 1 ? 0 : i], b.items[m == 1 ? 0 : i]);
    if (!element) return std::nullopt;
    result.items.push_back(std::move(*element));
  }
  return result;
}

std::optional<Elements> ShapeElements::where(const Node& node) {
  if (find(node.input(0)) == nullptr || find(node.input(1)) == nullptr || find(node.input(2)) == nullptr)
    return std::nullopt;
  const Elements condition = *find(node.input(0)), yes = *find(node.input(1)), no = *find(node.input(2));
  const std::size_t count = std::max({condition.items.size(), yes.items.size(), no.items.size()});
  Elements result;
  result.scalar = condition.scalar && yes.scalar && no.scalar;
  const auto pick = [&](const Elements& elements, std::size_t i) -> const Element* {
    if (elements.items.size() == count) return &elements.items[i];
    return elements.items.size() == 1 ? &elements.items[0] : nullptr;
  };
  for (std::size_t i = 0; i < count; ++i) {
    const Element* flag = pick(condition, i);
    if (flag == nullptr) return std::nullopt;
    const Element* a = pick(yes, i);
    const Element* b = pick(no, i);
    if (a == nullptr || b == nullptr) return std::nullopt;
    if (!flag->number && !(*a == *b)) return std::nullopt;
    result.items.push_back(!flag->number || *flag->number != 0 ? *a : *b);
  }
  return result;
}

}  // namespace onnxfold
