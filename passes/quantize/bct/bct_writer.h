// BctWriter: puts the nodes of blockwise-compressed models into a graph, and what they share in front of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

// Attributes from name, value pairs.
template <typename... Rest>
std::vector<Attribute> attributes(Rest&&... rest) {
  std::vector<Attribute> list;
  const auto take = [&list](auto&& self, auto&& name, auto&& value, auto&&... more) -> void {
    list.emplace_back(name, AttributeValue(value));
    if constexpr (sizeof...(more) > 0) self(self, more...);
  };
  take(take, std::forward<Rest>(rest)...);
  return list;
}

// How the numbers of a value are rounded: code * 2^exponent, one exponent for all or one for each index of an axis.
struct Grid {
  int bits = 8;                        // 2 to 8: int8; more: int16, where nothing is cut off at `bits`
  std::int64_t axis = -1;              // of the exponents; counts from the end
  std::vector<std::int8_t> exponents;  // one, or one for each index of the axis

  bool whole() const { return exponents.size() == 1; }
  // ONNX Runtime fuses operators between QuantizeLinear of int8 with one scale and fails to load what it made of them;
  // with uint8 it does not, and with one scale for each channel it leaves them alone.
  DType dtype() const { return bits > 8 ? DType::kInt16 : whole() ? DType::kUint8 : DType::kInt8; }
  int zero() const { return dtype() == DType::kUint8 ? 128 : 0; }  // the code of 0
  int limit() const { return (1 << (bits - 1)) - 1; }
};

class BctWriter {
 public:
  explicit BctWriter(Graph& graph) : graph_(graph) {}

  Graph& graph() { return graph_; }
  // Nodes go in front of this one (null: to the end); values are named after `stem`.
  void place(const Node* before, std::string stem);

  Value* add(std::string_view op_type, std::vector<Value*> inputs, Type type, std::vector<Attribute> attributes = {});
  // Constants; equal ones are stored once.
  Value* number(float value);
  Value* axes(const std::vector<std::int64_t>& numbers);
  Value* ints(const Dims& dims, const std::vector<std::int32_t>& numbers);
  Value* floats(const Dims& dims, const std::vector<float>& numbers);
  Value* tensor(const Tensor& small);

  // 2^exponent of int8 exponents, computed once at the head of the graph.
  Value* powers(Value* exponents);
  // The scales of a grid.
  Value* scales(const Grid& grid);
  // A zero point for one scale, or `count` of 0.
  Value* zeros(DType dtype, std::size_t count, int zero = 0);
  // QuantizeLinear, and for less than 8 bits a Clip of the codes.
  Value* encode(Value* value, const Grid& grid);
  Value* decode(Value* codes, const Grid& grid, Type type);
  // Both.
  Value* round(Value* value, const Grid& grid) { return decode(encode(value, grid), grid, value->type()); }

  std::int64_t scale_bytes() const { return scale_bytes_; }

 private:
  Value* code(const Grid& grid, int number);

  Graph& graph_;
  const Node* before_ = nullptr;
  std::string stem_;
  std::map<std::string, Value*> kept_;                 // constants by content
  std::map<std::vector<std::int8_t>, Value*> scales_;  // by exponents
  std::int64_t scale_bytes_ = 0;
};

// `type` with another element type.
Type with_dtype(Type type, DType dtype);
// `type` with a last axis of `size`.
Type with_last(Type type, std::int64_t size);

}  // namespace onnxfold
