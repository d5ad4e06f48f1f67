#include "analysis/structure/shape_arithmetic.h"

#include <algorithm>
#include <array>
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

// Rows of a constant weight that some reader multiplies the last axis with.
std::optional<std::int64_t> columns_for_readers(const Value& value) {
  for (const Use& use : value.uses()) {
    if (use.node == nullptr || use.index != 0 || (!use.node->is("MatMul") && !use.node->is("Gemm"))) continue;
    const Tensor* weight = constant(use.node->input(1));
    if (weight == nullptr || weight->rank() != 2 || use.node->attr_int("transA", 0) != 0) continue;
    return weight->dims()[use.node->attr_int("transB", 0) != 0 ? 1 : 0];
  }
  return {};
}

bool keeps_shape(const Node& node) {
  static constexpr std::array<std::string_view, 14> kSame = {
      "Cos",     "Sin", "Cast", "Identity",           "Softmax",         "Neg", "Dropout", "Sqrt", "Tanh",
      "Sigmoid", "Erf", "Relu", "LayerNormalization", "RMSNormalization"};
  return std::find(kSame.begin(), kSame.end(), node.op_type()) != kSame.end();
}

bool broadcasts(const Node& node) {
  return node.is("Add") || node.is("Sub") || node.is("Mul") || node.is("Div") || node.is("Pow");
}

// Axes counted from the front, in ascending order; nullopt when one is out of range.
std::optional<std::vector<std::size_t>> places(const std::vector<std::int64_t>& axes, std::size_t rank) {
  std::vector<std::size_t> result;
  for (std::int64_t axis : axes) {
    axis += axis < 0 ? static_cast<std::int64_t>(rank) : 0;
    if (axis < 0 || axis >= static_cast<std::int64_t>(rank)) return {};
    result.push_back(static_cast<std::size_t>(axis));
  }
  std::sort(result.begin(), result.end());
  return result;
}

using Extents = ShapeArithmetic::Extents;

std::optional<Extents> transposed(const Extents& in, const Node& node) {
  const auto perm = node.attr_ints("perm");
  if (!perm || perm->size() != in.size() || !places(*perm, in.size())) return {};
  Extents out;
  for (const std::int64_t axis : *perm) {
    out.push_back(in[static_cast<std::size_t>(axis < 0 ? axis + static_cast<std::int64_t>(in.size()) : axis)]);
  }
  return out;
}

std::optional<Extents> sliced(Extents in, const Node& node, ShapeArithmetic& numbers) {
  const auto axes = node.input(3) != nullptr ? numbers.integers(node.input(3)) : node.attr_ints("axes");
  const auto at = axes ? places(*axes, in.size()) : std::nullopt;
  if (!at) return {};
  const auto ranges = slice_ranges(node, numbers);
  for (std::size_t i = 0; i < at->size(); ++i) {
    auto& dim = in[(*at)[i]];
    const bool one = ranges && ranges->size() == 1 && ranges->front().step == 1;
    if (!dim || !one) {
      dim.reset();
      continue;
    }
    const auto clamp = [&](std::int64_t x) { return std::clamp(x < 0 ? x + *dim : x, std::int64_t{0}, *dim); };
    dim = std::max(clamp(ranges->front().end) - clamp(ranges->front().start), std::int64_t{0});
  }
  return in;
}

// Of Squeeze, Unsqueeze, and Slice, Split, Gather, which leave the other axes alone.
std::optional<Extents> cut(Extents in, const Node& node, ShapeArithmetic& numbers) {
  if (node.is("Squeeze") || node.is("Unsqueeze")) {
    const auto axes = axes_of(node, 1);
    if (!axes) return {};
    const auto at = places(*axes, in.size() + (node.is("Unsqueeze") ? axes->size() : 0));
    if (!at) return {};
    if (node.is("Unsqueeze")) {
      for (const std::size_t axis : *at) {
        if (axis > in.size()) return {};
        in.insert(in.begin() + static_cast<std::ptrdiff_t>(axis), 1);
      }
    } else {
      for (std::size_t i = at->size(); i-- > 0;) in.erase(in.begin() + static_cast<std::ptrdiff_t>((*at)[i]));
    }
    return in;
  }
  if (node.is("Slice")) {
    return sliced(std::move(in), node, numbers);
  }
  const auto at = places({node.attr_int("axis", 0)}, in.size());
  if (!at) return {};
  in[at->front()].reset();
  if (!node.is("Gather")) return in;
  const auto rank = node.input(1) != nullptr ? node.input(1)->rank() : std::nullopt;
  if (!rank || *rank > 1) return {};
  if (*rank == 0) in.erase(in.begin() + static_cast<std::ptrdiff_t>(at->front()));
  return in;
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

std::optional<Extents> ShapeArithmetic::dims(const Value* value) {
  if (value == nullptr || value->erased()) return {};
  const auto found = dims_.find(value);
  if (found != dims_.end()) return found->second;
  std::optional<Extents> known;
  bool complete = false;
  if (value->rank()) {
    known.emplace();
    complete = true;
    for (const Dim& dim : *value->type().shape) {
      known->push_back(dim.known() ? dim.value : std::nullopt);
      complete = complete && dim.known();
    }
  }
  const auto refined = refined_.find(value);
  if (refined != refined_.end()) {
    if (!known) known.emplace(refined->second.size());
    for (std::size_t i = 0; i < known->size() && i < refined->second.size(); ++i) {
      if (!(*known)[i]) (*known)[i] = refined->second[i];
    }
  }
  if (!complete && depth_ < kMaxDepth && value->producer() != nullptr) {
    ++depth_;
    const auto produced = produced_dims(*value);
    --depth_;
    if (!known) known = produced;
    for (std::size_t i = 0; produced && produced->size() == known->size() && i < known->size(); ++i) {
      if (!(*known)[i]) (*known)[i] = (*produced)[i];
    }
  }
  if (known && !known->empty() && !known->back()) known->back() = columns_for_readers(*value);
  return dims_[value] = known;
}

void ShapeArithmetic::refine(const Value* value, const Extents& extents) {
  const auto known = dims(value);
  if (known && known->size() != extents.size()) return;
  bool news = !known;
  for (std::size_t i = 0; known && i < extents.size(); ++i) news = news || (extents[i] && !(*known)[i]);
  if (!news) return;
  refined_[value] = extents;
  known_.clear();
  dims_.clear();
}

std::optional<std::size_t> ShapeArithmetic::inferred_axis(const Node& node) {
  const auto stated = node.is("Reshape") ? elements(node.input(1)) : std::nullopt;
  for (std::size_t i = 0; stated && i < stated->size(); ++i) {
    if ((*stated)[i] == -1.0) return i;
  }
  return {};
}

std::optional<Extents> ShapeArithmetic::produced_dims(const Value& value) {
  const Node& node = *value.producer();
  const std::string& op = node.op_type();
  if (op == "Reshape" || op == "Expand") return target_dims(node);
  if (broadcasts(node)) return broadcast_dims(node);
  const auto in = dims(node.input(0));
  if (!in || (value.output_index() != 0 && op != "Split")) return {};
  if (keeps_shape(node)) return in;
  if (op == "Transpose") return transposed(*in, node);
  if (op == "Squeeze" || op == "Unsqueeze" || op == "Slice" || op == "Split" || op == "Gather") {
    return cut(*in, node, *this);
  }
  const Tensor* weight = op == "MatMul" ? constant(node.input(1)) : nullptr;
  if (weight == nullptr || weight->rank() != 2) return {};
  Extents out = *in;
  out.back() = weight->dims()[1];
  return out;
}

std::optional<Extents> ShapeArithmetic::broadcast_dims(const Node& node) {
  const auto a = dims(node.input(0)), b = dims(node.input(1));
  if (!a || !b) return {};
  Extents out(std::max(a->size(), b->size()));
  for (std::size_t back = 1; back <= out.size(); ++back) {
    const auto x = back <= a->size() ? (*a)[a->size() - back] : 1, y = back <= b->size() ? (*b)[b->size() - back] : 1;
    auto& dim = out[out.size() - back];
    if (x && *x != 1) {
      dim = x;
    } else if (y && *y != 1) {
      dim = y;
    } else if (x && y) {
      dim = 1;
    }
  }
  return out;
}

std::optional<Extents> ShapeArithmetic::target_dims(const Node& node) {
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
      if (number == 0 && node.is("Reshape") && node.attr_int("allowzero", 0) == 0) {
        const auto in = this->dims(node.input(0));
        if (in && i < in->size()) dims[i] = (*in)[i];
      }
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
