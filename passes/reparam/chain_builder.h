// ChainBuilder: writes a chain of operators in front of the node that it will replace.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

class ChainBuilder {
 public:
  // Values are named after `node`'s first output and inserted before it.
  ChainBuilder(Graph& graph, const Node& node);

  std::int64_t opset() const { return graph_.opset(); }
  // One operator of one output. Attributes are moved from.
  Value* add(std::string_view op_type, std::vector<Value*> inputs, Type type, std::vector<Attribute> attributes = {});
  // Of the type of its first input: element-wise operators on values of one shape or a scalar.
  Value* map(std::string_view op_type, std::vector<Value*> inputs);
  // Constants. `number` is rounded into `dtype`, a float type.
  Value* scalar(double number, DType dtype);
  Value* ints(const std::vector<std::int64_t>& numbers);
  Value* constant(Tensor tensor);
  // The value itself when it has that type, else a Cast.
  Value* cast(Value* value, DType dtype);
  // Mean over the trailing axes from `axis` (negative, counted from the end), which are kept with size 1.
  Value* trailing_mean(Value* value, std::int64_t axis);

 private:
  Graph& graph_;
  const Node& node_;
  std::string stem_;
};

}  // namespace onnxfold
