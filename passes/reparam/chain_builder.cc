#include "passes/reparam/chain_builder.h"

#include <algorithm>
#include <array>

#include "passes/rewrite.h"

namespace onnxfold {

ChainBuilder::ChainBuilder(Graph& graph, const Node& node) : graph_(graph), node_(node), stem_(node.output()->name()) {}

Value* ChainBuilder::add(std::string_view op_type, std::vector<Value*> inputs, Type type,
                         std::vector<Attribute> attributes) {
  return graph_
      .insert({.op_type = std::string(op_type),
               .inputs = std::move(inputs),
               .outputs = {{stem_ + "_" + std::string(op_type), std::move(type)}},
               .attributes = std::move(attributes),
               .domain = "",
               .name = ""},
              &node_)
      ->output();
}

Value* ChainBuilder::map(std::string_view op_type, std::vector<Value*> inputs) {
  Type type = inputs.front()->type();
  return add(op_type, std::move(inputs), std::move(type));
}

Value* ChainBuilder::scalar(double number, DType dtype) {
  const std::array<double, 1> numbers = {number};
  return add_constant(graph_, from_doubles(dtype, {}, numbers).value_or(Tensor::of<double>({}, {number})),
                      stem_ + "_constant");
}

Value* ChainBuilder::ints(const std::vector<std::int64_t>& numbers) {
  return add_constant(graph_, Tensor::of<std::int64_t>({static_cast<std::int64_t>(numbers.size())}, numbers),
                      stem_ + "_constant");
}

Value* ChainBuilder::constant(Tensor tensor) { return add_constant(graph_, std::move(tensor), stem_ + "_constant"); }

Value* ChainBuilder::cast(Value* value, DType dtype) {
  if (value->dtype() == dtype) return value;
  std::vector<Attribute> attributes;
  attributes.emplace_back("to", static_cast<std::int64_t>(dtype));
  Type type = value->type();
  type.dtype = dtype;
  return add("Cast", {value}, std::move(type), std::move(attributes));
}

Value* ChainBuilder::trailing_mean(Value* value, std::int64_t axis) {
  std::vector<std::int64_t> axes;
  for (std::int64_t i = axis; i < 0; ++i) axes.push_back(i);
  Type type = value->type();
  if (type.shape) {
    const std::size_t rank = type.shape->size();
    for (std::size_t i = rank - std::min(rank, axes.size()); i < rank; ++i) (*type.shape)[i] = Dim{1, "", ""};
  }
  if (opset() >= 18) return add("ReduceMean", {value, ints(axes)}, std::move(type));
  std::vector<Attribute> attributes;
  attributes.emplace_back("axes", std::move(axes));
  return add("ReduceMean", {value}, std::move(type), std::move(attributes));
}

}  // namespace onnxfold
