#include "analysis/structure/shape_arithmetic.h"

#include <algorithm>
#include <cmath>

#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr std::size_t kMaxElements = 64;
constexpr int kMaxDepth = 200;

std::optional<std::int64_t> as_integer(const std::optional<double>& number) {
  if (!number || std::isnan(*number)) return {};
  constexpr double kLimit = 9.2e18;  // ends of slices are written as the largest int64
  return static_cast<std::int64_t>(std::clamp(*number, -kLimit, kLimit));
}

std::optional<ShapeArithmetic::Elements> constant_elements(const Tensor& tensor) {
  if (tensor.size() > static_cast<std::int64_t>(kMaxElements) || tensor.dtype() == DType::kString) return {};
  const Result<std::vector<double>> numbers = to_doubles(tensor);
  if (!numbers) return {};
  return ShapeArithmetic::Elements(numbers->begin(), numbers->end());
}

std::optional<ShapeArithmetic::Elements> shape_of(const Node& node) {
  const Value* input = node.input(0);
  if (input == nullptr || !input->rank()) return {};
  const std::int64_t rank = *input->rank();
  const auto clamp = [&](std::int64_t at) { return std::clamp(at < 0 ? at + rank : at, std::int64_t{0}, rank); };
  ShapeArithmetic::Elements dims;
  for (std::int64_t i = clamp(node.attr_int("start", 0)); i < clamp(node.attr_int("end", rank)); ++i) {
    const Dim& dim = (*input->type().shape)[static_cast<std::size_t>(i)];
    dims.push_back(dim.known() ? std::optional<double>(static_cast<double>(*dim.value)) : std::nullopt);
  }
  return dims;
}

std::optional<double> combine(const Node& node, double a, double b) {
  const std::string& op = node.op_type();
  if (op == "Add") return a + b;
  if (op == "Sub") return a - b;
  if (op == "Mul") return a * b;
  if (op == "Max") return std::fmax(a, b);
  if (op == "Min") return std::fmin(a, b);
  if (op == "Pow") return std::pow(a, b);
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

std::optional<ShapeArithmetic::Elements> ShapeArithmetic::elements(const Value* value) {
  if (value == nullptr || value->erased()) return {};
  if (const Tensor* tensor = value->constant()) return constant_elements(*tensor);
  if (value->producer() == nullptr || value->output_index() != 0) return {};
  const auto found = known_.find(value);
  if (found != known_.end()) return found->second;
  if (depth_ >= kMaxDepth) return {};
  ++depth_;
  std::optional<Elements> result = compute(*value->producer());
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
    const auto number = as_integer(element);
    if (!number) return {};
    result.push_back(*number);
  }
  return result;
}

std::optional<ShapeArithmetic::Elements> ShapeArithmetic::compute(const Node& node) {
  if (!node.domain().empty()) return {};
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
  if (!all || data->rank().value_or(1) != 1) return {};
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

std::optional<std::vector<std::optional<std::int64_t>>> ShapeArithmetic::target_dims(const Node& node) {
  const Value* output = node.output();
  if (output == nullptr) return {};
  const auto stated = node.inputs().size() > 1 ? elements(node.input(1)) : std::nullopt;
  std::size_t rank = 0;
  if (output->rank()) {
    rank = static_cast<std::size_t>(*output->rank());
  } else if (stated) {
    rank = stated->size();
  } else {
    return {};
  }
  const bool align = stated && node.is("Expand") && stated->size() <= rank;
  std::vector<std::optional<std::int64_t>> dims(rank);
  for (std::size_t i = 0; i < rank; ++i) {
    const Dim* dim = output->rank() ? &(*output->type().shape)[i] : nullptr;
    if (dim != nullptr && dim->known()) {
      dims[i] = *dim->value;
    } else if (stated && (stated->size() == rank || align) && i + stated->size() >= rank) {
      const auto number = as_integer((*stated)[i + stated->size() - rank]);
      if (number && *number > 0) dims[i] = number;
    }
  }
  return dims;
}

std::optional<std::vector<std::int64_t>> axes_of(const Node& node, std::size_t input) {
  if (auto axes = node.attr_ints("axes")) return axes;
  return node.input(input) != nullptr ? int_constants(node.input(input)) : std::nullopt;
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
