// Shape, Gather, Slice, Concat, Unsqueeze, Cast and integer arithmetic on dimensions => what is known of the result:
//   all elements known                          => constant
//   dimensions [a, b) of one value              => Shape<start = a, end = b>(value), opset 15
//   dimensions and numbers chosen by a Where     => Concat of Shapes and constants, opset 15
//   elements of one of its inputs               => that input             Where(Equal(s, -1), 1, s) of sizes s
//   Reshape(x, computed)                        => Reshape(x, constant)   with 0 where x has that dimension at that
//   place Expand(x, computed)                         => Expand(x, constant)    with 1 where x has that dimension
//   already
//
// A dimension with the same symbol is taken to be the same number, as ONNX says. A -1 is written only where all other
// entries are known positive numbers, so that empty tensors keep working. Needs inferred types. Exact.
#include <algorithm>
#include <map>

#include "passes/cleanup/shape_elements.h"
#include "passes/cleanup/shapes.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

Tensor to_tensor(DType dtype, const Elements& elements) {
  std::vector<double> numbers;
  for (const Element& element : elements.items) numbers.push_back(static_cast<double>(*element.number));
  const Dims dims = elements.scalar ? Dims{} : Dims{static_cast<std::int64_t>(numbers.size())};
  if (dtype == DType::kInt64) {
    std::vector<std::int64_t> exact;
    for (const Element& element : elements.items) exact.push_back(*element.number);
    return Tensor::of<std::int64_t>(dims, exact);
  }
  return from_doubles(dtype, dims, numbers).value_or(Tensor());
}

Tensor shape_tensor(const std::vector<std::int64_t>& dims) {
  return Tensor::of<std::int64_t>({static_cast<std::int64_t>(dims.size())}, dims);
}

// Where dimensions are to be had: the first value, in topological order, that has each.
class DimensionIndex {
 public:
  void add(const Value& value) {
    if (!value.type().is_tensor() || !value.type().shape) return;
    for (std::size_t axis = 0; axis < value.type().shape->size(); ++axis) {
      const Element element = dimension_of(value, axis);
      if (element.number) continue;
      std::vector<std::pair<const Value*, std::size_t>>& places = places_[element.name];
      if (places.size() < kPlaces) places.emplace_back(&value, axis);
    }
  }

  // A value whose dimensions from some axis on are exactly `items`.
  std::optional<std::pair<const Value*, std::size_t>> find(const std::vector<Element>& items) const {
    const auto found = items.empty() ? places_.end() : places_.find(items.front().name);
    if (found == places_.end() || items.front().number) return std::nullopt;
    for (const auto& [value, axis] : found->second) {
      if (value->erased() || axis + items.size() > value->type().shape->size()) continue;
      bool equal = true;
      for (std::size_t i = 0; i < items.size(); ++i) equal = equal && dimension_of(*value, axis + i) == items[i];
      if (equal) return std::pair(value, axis);
    }
    return std::nullopt;
  }

 private:
  static constexpr std::size_t kPlaces = 8;  // keeps the search linear
  std::map<std::string, std::vector<std::pair<const Value*, std::size_t>>> places_;
};

class FoldShapes final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    ShapeElements elements;
    DimensionIndex dimensions;
    for (const Value* input : graph.inputs()) dimensions.add(*input);
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (node->erased()) continue;
      elements.visit(*node);
      if (fold_output(graph, *node, elements, dimensions) || fold_reshape(graph, *node, elements) ||
          fold_expand(graph, *node, elements)) {
        changed = true;
      }
      if (node->erased()) continue;
      for (const Value* output : node->outputs()) {
        if (output != nullptr) dimensions.add(*output);
      }
    }
    return changed;
  }

 private:
  static bool fold_output(Graph& graph, Node& node, ShapeElements& elements, const DimensionIndex& dimensions) {
    if (node.outputs().size() != 1 || node.output() == nullptr || node.is("Constant")) return false;
    Value& output = *node.output();
    const Elements* known = elements.find(&output);
    if (known == nullptr || output.is_graph_output() || output.uses().empty()) return false;
    if (known->known()) {
      Tensor tensor = to_tensor(output.dtype(), *known);
      if (!tensor.defined()) return false;
      const std::string name = output.name();
      Value* made = add_constant(graph, std::move(tensor), name);
      if (!replace_and_erase(graph, node, *made)) return false;
      graph.rename(*made, name);
      return true;
    }
    for (Value* input : node.inputs()) {
      const Elements* given = input != nullptr && input->dtype() == output.dtype() ? elements.find(input) : nullptr;
      if (given != nullptr && given->scalar == known->scalar && given->items == known->items)
        return replace_and_erase(graph, node, *input);
    }
    if (node.is("Shape") || known->scalar || output.dtype() != DType::kInt64 || node.opset() < 15) return false;
    if (const auto place = dimensions.find(known->items)) {
      Node& shape = add_shape(graph, node, *place, known->items.size(), {output.name(), output.type()});
      shape.name = node.name;
      elements.visit(shape);
      return replace_and_erase(graph, node, *shape.output());
    }
    return node.is("Where") && fold_choice(graph, node, *known, elements, dimensions);
  }

  static Node& add_shape(Graph& graph, const Node& before, const std::pair<const Value*, std::size_t>& place,
                         std::size_t count, OutputSpec output) {
    const auto [value, axis] = place;
    std::vector<Attribute> attributes;
    const std::size_t end = axis + count;
    if (axis != 0) attributes.emplace_back("start", static_cast<std::int64_t>(axis));
    if (end != value->type().shape->size()) attributes.emplace_back("end", static_cast<std::int64_t>(end));
    return *graph.insert({.op_type = "Shape",
                          .inputs = {const_cast<Value*>(value)},
                          .outputs = {std::move(output)},
                          .attributes = std::move(attributes),
                          .domain = "",
                          .name = ""},
                         &before);
  }

  // Dimensions and numbers that a Where picks, joined without it.
  static bool fold_choice(Graph& graph, Node& node, const Elements& known, ShapeElements& elements,
                          const DimensionIndex& dimensions) {
    std::vector<Elements> parts;
    for (const Element& item : known.items) {
      if (!item.number && !dimensions.find({item})) return false;
      const bool number = item.number && !parts.empty() && parts.back().known();
      if (number) {
        parts.back().items.push_back(item);
      } else {
        parts.push_back({{item}, false});
      }
    }
    std::vector<Value*> pieces;
    const Value& output = *node.output();
    for (const Elements& part : parts) {
      if (part.known()) {
        pieces.push_back(add_constant(graph, to_tensor(DType::kInt64, part), output.name() + "_sizes"));
        continue;
      }
      const OutputSpec size{output.name() + "_size", Type::tensor(DType::kInt64, {Dim{1, "", ""}})};
      Node& shape = add_shape(graph, node, *dimensions.find(part.items), 1, size);
      elements.visit(shape);
      pieces.push_back(shape.output());
    }
    NodeSpec spec{"Concat", std::move(pieces), {}, {}, "", node.name};
    spec.outputs.push_back({output.name(), output.type()});
    Node* joined = graph.insert(std::move(spec), &node);
    joined->set_attribute("axis", std::int64_t{0});
    elements.visit(*joined);
    return replace_and_erase(graph, node, *joined->output());
  }

  // The arithmetic that made the old target goes with it when nothing else reads it.
  static void set_target(Graph& graph, Node& node, const std::vector<std::int64_t>& target) {
    const Value* old = node.input(1);
    graph.set_input(node, 1, add_constant(graph, shape_tensor(target), old->name() + "_folded"));
    Node* producer = old->producer();
    if (producer == nullptr || producer->graph() != &graph) return;
    for (const Value* output : producer->outputs()) {
      if (output != nullptr && !output->uses().empty()) return;
    }
    erase_with_dead_inputs(graph, *producer);
  }

  static bool fold_reshape(Graph& graph, Node& node, ShapeElements& elements) {
    if (node.erased() || !node.is("Reshape") || node.opset() < 5 || node.attr_int("allowzero", 0) != 0) return false;
    if (node.input(0) == nullptr || node.input(1) == nullptr || node.input(1)->constant() != nullptr) return false;
    const Type& from = node.input(0)->type();
    std::optional<std::vector<std::int64_t>> target;
    if (const Elements* wanted = elements.find(node.input(1)); wanted != nullptr && !wanted->scalar) {
      target = target_from(*node.input(0), *wanted);
    }
    if (!target && believable(node)) target = reshape_target(from, *node.output()->type().shape);
    if (!target) return false;
    set_target(graph, node, *target);
    return true;
  }

  // What a file declares of its outputs may be wrong (runtimes only warn), at times in rank: the number of entries of
  // the target has to agree.
  static bool believable(const Node& node) {
    const Type& type = node.output()->type();
    if (!type.shape) return false;
    if (!node.output()->is_graph_output()) return true;
    const auto entries = node.input(1)->type().static_dims();
    return entries && *entries == Dims{static_cast<std::int64_t>(type.shape->size())};
  }

  // Numbers (0 and -1 among them) as the model computes them, dimensions of x at their place as 0, one -1.
  static std::optional<std::vector<std::int64_t>> target_from(const Value& x, const Elements& wanted) {
    std::vector<std::int64_t> target;
    const std::size_t rank = x.type().shape ? x.type().shape->size() : 0;
    bool positive = true, infers = false, stated = false;
    for (std::size_t i = 0; i < wanted.items.size(); ++i) {
      const Element& item = wanted.items[i];
      if (item.number) {
        stated = stated || *item.number == -1;
        positive = positive && (*item.number > 0 || *item.number == -1);
        target.push_back(*item.number);
      } else if (i < rank && item.dimension && dimension_of(x, i) == item) {
        positive = false;
        target.push_back(0);
      } else {
        if (infers) return std::nullopt;
        infers = true;
        target.push_back(-1);
      }
    }
    // A computed entry may itself turn out as 0 or -1 (a copy or an inference) unless it is a product of dimensions;
    // only a -1 that stands alone among known positive numbers is the same in every case.
    if (infers && (stated || !positive)) return std::nullopt;
    return target;
  }

  static bool fold_expand(Graph& graph, Node& node, ShapeElements& elements) {
    if (node.erased() || !node.is("Expand") || node.input(0) == nullptr || node.input(1) == nullptr) return false;
    if (node.input(1)->constant() != nullptr || !node.input(0)->type().shape) return false;
    const Elements* wanted = elements.find(node.input(1));
    if (wanted == nullptr || wanted->scalar) return false;
    const std::size_t rank = node.input(0)->type().shape->size(), count = wanted->items.size();
    std::vector<std::int64_t> target;
    for (std::size_t i = 0; i < count; ++i) {
      const Element& item = wanted->items[i];
      const bool has_axis = i + rank >= count;
      if (item.number) {
        target.push_back(*item.number);
      } else if (has_axis && item.dimension && dimension_of(*node.input(0), i + rank - count) == item) {
        target.push_back(1);
      } else {
        return false;
      }
    }
    set_target(graph, node, target);
    return true;
  }
};

}  // namespace

std::unique_ptr<Pass> make_fold_shapes(const PassOptions&) { return std::make_unique<FoldShapes>(); }

}  // namespace onnxfold
