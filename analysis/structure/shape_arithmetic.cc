#include "analysis/structure/shape_arithmetic.h"

#include <algorithm>
#include <cmath>

#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr std::size_t kMaxElements = 64;

std::optional<ShapeArithmetic::Elements> constant_elements(const Tensor& tensor) {
  if (tensor.size() > static_cast<std::int64_t>(kMaxElements) || tensor.dtype() == DType::kString) return {};
  const Result<std::vector<double>> numbers = to_doubles(tensor);
  if (!numbers) return {};
  return ShapeArithmetic::Elements(numbers->begin(), numbers->end());
}

std::optional<double> combine(const Node& node, double a, double b) {
  const std::string& op = node.op_type();
  if (op == "Add") return a + b;
  if (op == "Sub") return a - b;
  if (op == "Mul") return a * b;
  if (op == "Max") return std::fmax(a, b);
  if (op == "Min") return std::fmin(a, b);
  if (op == "Pow") return std::pow(a, b);
  if (op == "Mod" && b != 0 && node.attr_int("fmod", 0) == 0) return a - b * std::floor(a / b);
  if (op == "Equal") return a == b ? 1 : 0;
  if (op != "Div" || (b == 0 && is_integer(node.output()->dtype()))) return {};
  return is_integer(node.output()->dtype()) ? std::trunc(a / b) : a / b;
}

std::optional<double> transform(const Node& node, double a) {
  const std::string& op = node.op_type();
  if (op == "Neg") return -a;
  if (op == "Sqrt") return std::sqrt(a);
  if (op == "Reciprocal") return 1 / a;
  if (op == "Floor") return std::floor(a);
  if (op == "Ceil") return std::ceil(a);
  if (op != "Cast") return {};
  return node.output() != nullptr && is_integer(node.output()->dtype()) ? std::trunc(a) : a;
}

}  // namespace

std::optional<std::int64_t> ShapeArithmetic::integer(const std::optional<double>& number) {
  if (!number || std::isnan(*number)) return {};
  constexpr double kLimit = 9.2e18;  // ends of slices are written as the largest int64
  return static_cast<std::int64_t>(std::clamp(*number, -kLimit, kLimit));
}

std::optional<ShapeArithmetic::Elements> ShapeArithmetic::elements(const Value* value) {
  if (value == nullptr || value->erased()) return {};
  if (const Tensor* tensor = value->constant()) return constant_elements(*tensor);
  if (value->producer() == nullptr) return {};
  const auto found = known_.find(value);
  if (found != known_.end()) return found->second;
  if (depth_ >= kMaxDepth) return {};
  ++depth_;
  std::optional<Elements> result = compute(*value);
  --depth_;
  if (result && result->size() > kMaxElements) result.reset();
  return known_[value] = result;
}

std::optional<double> ShapeArithmetic::scalar(const Value* value) {
  const auto all = elements(value);
  return all && all->size() == 1 ? all->front() : std::nullopt;
}

std::optional<std::vector<std::int64_t>> ShapeArithmetic::integers(const Value* value) {
  const auto all = elements(value);
  if (!all) return {};
  std::vector<std::int64_t> result;
  for (const auto& element : *all) {
    const auto number = integer(element);
    if (!number) return {};
    result.push_back(*number);
  }
  return result;
}

std::optional<ShapeArithmetic::Elements> ShapeArithmetic::compute(const Value& value) {
  const Node& node = *value.producer();
  if (!node.domain().empty()) return {};
  if (node.op_type() == "Split") return part(node, static_cast<std::size_t>(value.output_index()));
  if (value.output_index() != 0) return {};
  const std::string& op = node.op_type();
  if (op == "Shape") return shape_of(node);
  if (op == "Identity" || op == "Unsqueeze" || op == "Squeeze" || op == "Reshape" || op == "Flatten") {
    return elements(node.input(0));
  }
  if (op == "Gather" || op == "Slice") return select(node);
  if (op == "Concat" || op == "ConstantOfShape" || op == "Where" || op == "Expand") return join(node);
  return arithmetic(node);
}

std::optional<ShapeArithmetic::Elements> ShapeArithmetic::select(const Node& node) {
  const Value* data = node.input(0);
  const auto all = elements(data);
  if (data == nullptr || data->rank().value_or(1) != 1) return {};
  if (!all) return select_unknown(node);
  const auto size = static_cast<std::int64_t>(all->size());
  Elements picked;
  if (node.op_type() == "Gather") {
    const auto indices = integers(node.input(1));
    if (!indices) return {};
    for (std::int64_t index : *indices) {
      if (index < 0) index += size;
      if (index < 0 || index >= size) return {};
      picked.push_back((*all)[static_cast<std::size_t>(index)]);
    }
    return picked;
  }
  const auto ranges = slice_ranges(node, *this);
  if (!ranges || ranges->size() != 1 || ranges->front().step < 1) return {};
  const auto clamp = [&](std::int64_t at) { return std::clamp(at < 0 ? at + size : at, std::int64_t{0}, size); };
  const std::int64_t end = clamp(ranges->front().end);
  for (std::int64_t i = clamp(ranges->front().start); i < end; i += ranges->front().step) {
    picked.push_back((*all)[static_cast<std::size_t>(i)]);
  }
  return picked;
}

// One output of a Split.
std::optional<ShapeArithmetic::Elements> ShapeArithmetic::part(const Node& node, std::size_t index) {
  const auto all = elements(node.input(0));
  const auto sizes = split_sizes(node, all ? static_cast<std::int64_t>(all->size()) : 0, *this);
  if (!all || node.input(0)->rank().value_or(1) != 1 || !sizes || index >= sizes->size()) return {};
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < index; ++i) begin += (*sizes)[i];
  const std::int64_t end = begin + (*sizes)[index];
  if (begin < 0 || end < begin || end > static_cast<std::int64_t>(all->size())) return {};
  return Elements(all->begin() + begin, all->begin() + end);
}

// Of a list of unknown length: how many entries there will be.
std::optional<ShapeArithmetic::Elements> ShapeArithmetic::select_unknown(const Node& node) {
  if (node.is("Gather")) {
    const auto indices = integers(node.input(1));
    return indices ? std::optional(Elements(indices->size())) : std::nullopt;
  }
  const auto ranges = slice_ranges(node, *this);
  if (!ranges || ranges->size() != 1) return {};
  const auto& [axis, start, end, step] = ranges->front();
  const bool same_side = (start < 0) == (end < 0);
  if (axis != 0 || step != 1 || !same_side || end <= start || end - start > 8) return {};
  return Elements(static_cast<std::size_t>(end - start));
}

std::optional<ShapeArithmetic::Elements> ShapeArithmetic::join(const Node& node) {
  if (node.op_type() == "Concat") {
    Elements joined;
    for (const Value* input : node.inputs()) {
      const auto part = elements(input);
      if (!part) return {};
      joined.insert(joined.end(), part->begin(), part->end());
    }
    return joined;
  }
  if (node.op_type() == "ConstantOfShape") {
    const auto dims = integers(node.input(0));
    if (!dims || dims->size() != 1 || dims->front() < 0 || dims->front() > 64) return {};
    const Tensor* fill = node.attr_tensor("value");
    const auto number = fill == nullptr ? std::optional(Elements{0.0}) : constant_elements(*fill);
    if (!number || number->size() != 1) return {};
    return Elements(static_cast<std::size_t>(dims->front()), number->front());
  }
  if (node.op_type() == "Expand") {
    const auto source = elements(node.input(0));
    const auto dims = integers(node.input(1));
    if (!source || source->size() != 1 || !dims || dims->size() != 1 || dims->front() < 1 || dims->front() > 64) {
      return {};
    }
    return Elements(static_cast<std::size_t>(dims->front()), source->front());
  }
  const auto condition = elements(node.input(0)), yes = elements(node.input(1)), no = elements(node.input(2));
  if (!condition || !yes || !no || yes->size() != condition->size() || no->size() != condition->size()) return {};
  Elements chosen;
  for (std::size_t i = 0; i < condition->size(); ++i) {
    const auto& truth = (*condition)[i];
    chosen.push_back(!truth ? std::nullopt : *truth != 0 ? (*yes)[i] : (*no)[i]);
  }
  return chosen;
}

std::optional<ShapeArithmetic::Elements> ShapeArithmetic::arithmetic(const Node& node) {
  const auto a = elements(node.input(0));
  if (!a || node.output() == nullptr) return {};
  Elements result;
  if (node.inputs().size() == 1) {
    for (const auto& element : *a) {
      const auto number = element ? transform(node, *element) : std::nullopt;
      if (element && !number) return {};
      result.push_back(number);
    }
    return result;
  }
  const auto b = node.inputs().size() == 2 ? elements(node.input(1)) : std::nullopt;
  if (!b || !(a->size() == b->size() || a->size() == 1 || b->size() == 1)) return {};
  for (std::size_t i = 0; i < std::max(a->size(), b->size()); ++i) {
    const auto &x = (*a)[a->size() == 1 ? 0 : i], &y = (*b)[b->size() == 1 ? 0 : i];
    // A dimension that is not known is not -1: exporters compare with -1 to find the entry to infer.
    if (node.op_type() == "Equal" && x.has_value() != y.has_value() && (x ? *x : *y) < 0) {
      result.emplace_back(0);
    } else {
      result.push_back(x && y ? combine(node, *x, *y) : std::nullopt);
    }
  }
  return result;
}

std::optional<ShapeArithmetic::Elements> ShapeArithmetic::shape_of(const Node& node) {
  const auto all = dims(node.input(0));
  if (!all) return {};
  const auto rank = static_cast<std::int64_t>(all->size());
  const auto clamp = [&](std::int64_t at) { return std::clamp(at < 0 ? at + rank : at, std::int64_t{0}, rank); };
  Elements result;
  for (std::int64_t i = clamp(node.attr_int("start", 0)); i < clamp(node.attr_int("end", rank)); ++i) {
    const auto& dim = (*all)[static_cast<std::size_t>(i)];
    result.push_back(dim ? std::optional<double>(static_cast<double>(*dim)) : std::nullopt);
  }
  return result;
}

std::optional<std::vector<std::int64_t>> axes_of(const Node& node, std::size_t input) {
  if (auto axes = node.attr_ints("axes")) return axes;
  return node.input(input) != nullptr ? int_constants(node.input(input)) : std::nullopt;
}

std::optional<std::vector<std::int64_t>> split_sizes(const Node& node, std::int64_t size, ShapeArithmetic& numbers) {
  auto sizes = node.attr_ints("split");
  if (!sizes && node.input(1) != nullptr) {
    sizes = numbers.integers(node.input(1));
    if (!sizes) return {};
  }
  if (sizes) return sizes->size() == node.outputs().size() ? sizes : std::nullopt;
  const auto count = static_cast<std::int64_t>(node.outputs().size());
  const std::int64_t each = (size + count - 1) / count;
  std::vector<std::int64_t> equal;
  for (std::int64_t left = size; std::ssize(equal) < count; left -= each) {
    equal.push_back(std::clamp(left, std::int64_t{0}, each));
  }
  return equal;
}

std::optional<std::vector<SliceRange>> slice_ranges(const Node& node, ShapeArithmetic& numbers) {
  const auto list = [&](const char* attribute, std::size_t input) {
    auto found = node.attr_ints(attribute);
    return found || node.input(input) == nullptr ? found : numbers.integers(node.input(input));
  };
  const auto starts = list("starts", 1), ends = list("ends", 2), axes = list("axes", 3), steps = list("steps", 4);
  if (!starts || !ends || starts->size() != ends->size()) return {};
  if ((node.input(3) != nullptr && !axes) || (node.input(4) != nullptr && !steps)) return {};
  if ((axes && axes->size() != starts->size()) || (steps && steps->size() != starts->size())) return {};
  std::vector<SliceRange> ranges(starts->size());
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    ranges[i] = {axes ? (*axes)[i] : static_cast<std::int64_t>(i), (*starts)[i], (*ends)[i], steps ? (*steps)[i] : 1};
  }
  return ranges;
}

}  // namespace onnxfold
