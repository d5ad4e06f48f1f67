#include <algorithm>
#include <array>

#include "analysis/structure/shape_arithmetic.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

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
  static constexpr std::array<std::string_view, 19> kSame = {"Cos",
                                                             "Sin",
                                                             "Cast",
                                                             "Identity",
                                                             "Softmax",
                                                             "Neg",
                                                             "Dropout",
                                                             "Sqrt",
                                                             "Tanh",
                                                             "Gelu",
                                                             "Sigmoid",
                                                             "Erf",
                                                             "Relu",
                                                             "Clip",
                                                             "Swish",
                                                             "HardSwish",
                                                             "RMSNormalization",
                                                             "LayerNormalization",
                                                             "SimplifiedLayerNormalization"};
  static constexpr std::array<std::string_view, 8> kMicrosoft = {"Gelu",
                                                                 "FastGelu",
                                                                 "BiasGelu",
                                                                 "QuickGelu",
                                                                 "SimplifiedLayerNormalization",
                                                                 "SkipLayerNormalization",
                                                                 "BiasSoftmax",
                                                                 "SkipSimplifiedLayerNormalization"};
  const auto holds = [&](const auto& names) {
    return std::find(names.begin(), names.end(), node.op_type()) != names.end();
  };
  return node.domain().empty() ? holds(kSame) : node.domain() == "com.microsoft" && holds(kMicrosoft);
}

bool broadcasts(const Node& node) {
  return node.is("Add") || node.is("Sub") || node.is("Mul") || node.is("Div") || node.is("Pow") || node.is("Where");
}

std::optional<std::int64_t> either(const std::optional<std::int64_t>& one, const std::optional<std::int64_t>& other) {
  return one ? one : other;
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

// Of MatMul and FusedMatMul; `b` may be unknown.
std::optional<Extents> product_dims(const Node& node, const Extents& a, const std::optional<Extents>& b) {
  for (const char* attribute : {"transA", "transBatchA", "transBatchB"}) {
    if (node.attr_int(attribute, 0) != 0) return {};
  }
  if (a.size() < 2) return {};
  Extents out = a;
  out.back().reset();
  if (!b || b->size() < 2 || b->size() > a.size()) return out;
  out.back() = node.attr_int("transB", 0) != 0 ? (*b)[b->size() - 2] : b->back();
  for (std::size_t back = 3; back <= b->size(); ++back) {
    auto& dim = out[out.size() - back];
    const auto& other = (*b)[b->size() - back];
    if (dim == 1) {
      dim = other;
    } else if (other != 1) {
      dim = either(dim, other);
    }
  }
  return out;
}

std::optional<Extents> reduced(Extents in, const Node& node) {
  const auto axes = axes_of(node, 1);
  const auto at = axes ? places(*axes, in.size()) : std::nullopt;
  if (!at || node.attr_int("keepdims", 1) == 0) return {};
  for (const std::size_t axis : *at) in[axis] = 1;
  return in;
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

}  // namespace

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
  const bool same = keeps_shape(node);  // SkipLayerNormalization keeps it in every output that has the full rank
  if (!in || (value.output_index() != 0 && op != "Split" && !(same && value.output_index() == 3))) return {};
  if (same) return in;
  if (op == "Concat") return joined_dims(node, *in);
  if (op == "ReduceMean") return reduced(*in, node);
  if (op == "Transpose") return transposed(*in, node);
  if (op == "Squeeze" || op == "Unsqueeze" || op == "Slice" || op == "Split" || op == "Gather") {
    return cut(*in, node, *this);
  }
  if (op == "MatMul" || op == "FusedMatMul") return product_dims(node, *in, dims(node.input(1)));
  return {};
}

// Other axes agree; the joined one is the sum.
std::optional<Extents> ShapeArithmetic::joined_dims(const Node& node, Extents in) {
  const auto at = places({node.attr_int("axis", 0)}, in.size());
  if (!at) return {};
  std::optional<std::int64_t> sum = 0;
  for (const Value* input : node.inputs()) {
    const auto part = dims(input);
    if (!part || part->size() != in.size()) return {};
    const auto& size = (*part)[at->front()];
    sum = sum && size ? std::optional(*sum + *size) : std::nullopt;
    for (std::size_t i = 0; i < in.size(); ++i) in[i] = either(in[i], (*part)[i]);
  }
  in[at->front()] = sum;
  return in;
}

std::optional<Extents> ShapeArithmetic::broadcast_dims(const Node& node) {
  const std::size_t first = node.is("Where") ? 1 : 0;  // conditions are no larger in what this is asked for
  const auto a = dims(node.input(first)), b = dims(node.input(first + 1));
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
      const auto number = integer((*stated)[i + stated->size() - rank]);
      if (number && *number > 0) dims[i] = number;
      if (number == 0 && node.is("Reshape") && node.attr_int("allowzero", 0) == 0) {
        const auto in = this->dims(node.input(0));
        if (in && i < in->size()) dims[i] = (*in)[i];
      }
    }
  }
  return dims;
}

}  // namespace onnxfold
