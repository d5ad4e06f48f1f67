#include "passes/quantize/bct/bct_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "passes/rewrite.h"

namespace onnxfold {
namespace {

std::vector<Attribute> axis_of(const Grid& grid) {
  std::vector<Attribute> list;
  if (!grid.whole()) list.emplace_back("axis", grid.axis);
  return list;
}

}  // namespace

void BctWriter::place(const Node* before, std::string stem) {
  before_ = before;
  stem_ = std::move(stem);
}

Value* BctWriter::add(std::string_view op_type, std::vector<Value*> inputs, Type type,
                      std::vector<Attribute> attributes) {
  NodeSpec spec;
  spec.op_type = std::string(op_type);
  spec.inputs = std::move(inputs);
  spec.outputs.push_back({fmt::format("{}_{}", stem_, op_type), std::move(type)});
  spec.attributes = std::move(attributes);
  return graph_.insert(std::move(spec), before_)->output();
}

Value* BctWriter::tensor(const Tensor& small) {
  const auto hash = small.content_hash();
  Value*& kept = kept_[hash ? *hash : fmt::format("{}", small.identity())];
  if (kept == nullptr) kept = add_constant(graph_, small, "bct_constant");
  return kept;
}

Value* BctWriter::number(float value) { return tensor(Tensor::scalar(value)); }
Value* BctWriter::axes(const std::vector<std::int64_t>& numbers) {
  return tensor(Tensor::of<std::int64_t>({static_cast<std::int64_t>(numbers.size())}, numbers));
}
Value* BctWriter::ints(const Dims& dims, const std::vector<std::int32_t>& numbers) {
  return tensor(Tensor::of<std::int32_t>(dims, numbers));
}
Value* BctWriter::floats(const Dims& dims, const std::vector<float>& numbers) {
  return tensor(Tensor::of<float>(dims, numbers));
}

Value* BctWriter::powers(Value* exponents) {
  const Node* before = before_;
  const std::string stem = stem_;
  const std::vector<Node*> nodes = graph_.nodes();
  place(nodes.empty() ? nullptr : nodes.front(), exponents->name());
  const Type type = with_dtype(exponents->type(), DType::kFloat32);
  Value* wide = add("Cast", {exponents}, type, attributes("to", static_cast<std::int64_t>(DType::kFloat32)));
  Value* scale = add("Pow", {number(2.0F), wide}, type);
  place(before, stem);
  return scale;
}

Value* BctWriter::scales(const Grid& grid) {
  Value*& made = scales_[grid.exponents];
  if (made != nullptr) return made;
  if (grid.whole()) {
    made = number(std::ldexp(1.0F, grid.exponents[0]));
    scale_bytes_ += 4;
  } else {
    const auto count = static_cast<std::int64_t>(grid.exponents.size());
    made = powers(add_constant(graph_, Tensor::of<std::int8_t>({count}, grid.exponents), "bct_exponents"));
    scale_bytes_ += count;
  }
  return made;
}

// They say the type; output_dtype would as well, but ONNX Runtime's fusions then take codes for uint8.
Value* BctWriter::zeros(DType dtype, std::size_t count, int zero) {
  const Dims dims = count == 1 ? Dims{} : Dims{static_cast<std::int64_t>(count)};
  const auto bytes = static_cast<std::size_t>(packed_bytes(dtype, static_cast<std::int64_t>(count)).value_or(0));
  return tensor(Tensor::owned(dtype, dims, Buffer(bytes, static_cast<std::byte>(zero))));
}

Value* BctWriter::encode(Value* value, const Grid& grid) {
  Value* scale = scales(grid);
  const Type type = with_dtype(value->type(), grid.dtype());
  Value* codes = add("QuantizeLinear", {value, scale, zeros(grid.dtype(), grid.exponents.size(), grid.zero())}, type,
                     axis_of(grid));
  if (grid.bits >= 8) return codes;
  Value* low = code(grid, -grid.limit());
  return add("Clip", {codes, low, code(grid, grid.limit())}, type);
}

Value* BctWriter::code(const Grid& grid, int number) {
  const Buffer byte(1, static_cast<std::byte>(number + grid.zero()));
  return tensor(Tensor::owned(grid.dtype(), {}, byte));
}

Value* BctWriter::decode(Value* codes, const Grid& grid, Type type) {
  return add("DequantizeLinear", {codes, scales(grid), zeros(grid.dtype(), grid.exponents.size(), grid.zero())},
             std::move(type), axis_of(grid));
}

Type with_dtype(Type type, DType dtype) {
  type.dtype = dtype;
  return type;
}

Type with_last(Type type, std::int64_t size) {
  if (type.shape && !type.shape->empty()) type.shape->back() = Dim{size, "", ""};
  return type;
}

}  // namespace onnxfold
