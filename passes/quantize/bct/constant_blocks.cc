#include "passes/quantize/bct/constant_blocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "ir/match.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kDecodedFrom = 256;  // numbers; the nodes that decode take some 250 bytes
constexpr double kMaskFrom = 1e4;           // no bias is that large; what hides positions is
constexpr std::int64_t kMaskChecked = 1 << 24;

// One reader's demand. An empty problem: known.
struct Reading {
  ConstantRole role = ConstantRole::kParameter;
  std::int64_t axis = -1;
  bool joined = false;
  std::string problem;
};

bool any_of(const Node& node, std::initializer_list<std::string_view> names) {
  return std::any_of(names.begin(), names.end(), [&](std::string_view name) { return node.is(name); });
}

Reading of_product(const Node& node, std::size_t input, std::int64_t rank) {
  if (node.is("Gemm")) {
    if (input == 2) return {};
    const bool turned = node.attr_int(input == 0 ? "transA" : "transB", 0) != 0;
    return {ConstantRole::kWeight, (input == 0) != turned ? 1 : 0, false, {}};
  }
  return {ConstantRole::kWeight, input == 0 ? rank - 1 : std::max<std::int64_t>(rank - 2, 0), false, {}};
}

// A table of positions is added like a bias, but has rows.
Reading of_elementwise(const Tensor& tensor) {
  const Dims& dims = tensor.dims();
  const auto wide = std::count_if(dims.begin(), dims.end(), [](std::int64_t d) { return d > 1; });
  return {wide > 1 && dims.back() > 1 ? ConstantRole::kTable : ConstantRole::kParameter, -1, false, {}};
}

Reading reading_of(const Node& node, std::size_t input, const Tensor& tensor) {
  const std::int64_t rank = tensor.rank();
  if (any_of(node, {"MatMul", "Gemm"}) || (node.is("FusedMatMul", "com.microsoft") && node.attributes().empty())) {
    return of_product(node, input, rank);
  }
  if (any_of(node, {"Conv", "ConvTranspose"})) {
    if (input == 1) return {ConstantRole::kWeight, 1, true, {}};
    return {};
  }
  if (any_of(node, {"LSTM", "GRU", "RNN"}) && (input == 1 || input == 2)) return {ConstantRole::kWeight, -1, false, {}};
  if (any_of(node, {"LSTM", "GRU", "RNN"}) && input == 3) return {};
  if (node.is("Einsum")) return {ConstantRole::kWeight, -1, false, {}};
  if (node.is("Gather") && input == 0) return {ConstantRole::kTable, -1, false, {}};
  if (any_of(node, {"Add", "Sub", "Mul", "Sum", "Concat", "Expand", "PRelu"}) || (node.is("Where") && input > 0)) {
    return of_elementwise(tensor);
  }
  if (any_of(node, {"LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization"}))
    return {};
  if (any_of(node, {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}) ||
      node.op_type().find("NBits") != std::string::npos || node.op_type().find("Quantized") != std::string::npos) {
    return {ConstantRole::kParameter, -1, false, "belongs to numbers that are quantized already"};
  }
  return {ConstantRole::kParameter, -1, false, fmt::format("read by {}, of which no blocks are known", node.op_type())};
}

// Demands of everything that reads `value`, through nodes that only move.
void collect(const Value& value, const Tensor& tensor, std::vector<Reading>& readings) {
  for (const Use& use : value.uses()) {
    if (use.node == nullptr) {
      readings.push_back({ConstantRole::kParameter, -1, false, "is an output of the graph"});
      continue;
    }
    const Node& node = *use.node;
    if (any_of(node, {"Identity", "Slice"})) {
      collect(*node.output(), tensor, readings);
    } else if (any_of(node, {"Reshape", "Unsqueeze", "Squeeze", "Flatten"}) && use.index == 0) {
      const std::size_t first = readings.size();
      collect(*node.output(), tensor, readings);
      for (std::size_t i = first; i < readings.size(); ++i) readings[i].axis = -1;
    } else if (node.is("Transpose")) {
      const std::size_t first = readings.size();
      collect(*node.output(), tensor, readings);
      const auto perm = node.attr_ints("perm");
      for (std::size_t i = first; i < readings.size(); ++i) {
        const std::int64_t rank = tensor.rank();
        std::int64_t& axis = readings[i].axis;
        if (axis < 0) axis += rank;
        if (axis < 0 || axis >= rank) continue;
        axis = perm ? (*perm)[static_cast<std::size_t>(axis)] : rank - 1 - axis;
      }
    } else if (any_of(node, {"Shape", "Size"})) {
      continue;
    } else {
      readings.push_back(reading_of(node, static_cast<std::size_t>(use.index), tensor));
    }
  }
}

// Something that hides positions: infinite or far beyond what parameters are.
bool looks_like_mask(const Tensor& tensor) {
  if (tensor.size() > kMaskChecked) return false;
  const auto values = to_floats(tensor);
  return values && std::any_of(values->begin(), values->end(), [](float v) {
           return !std::isfinite(v) || std::fabs(static_cast<double>(v)) > kMaskFrom;
         });
}

std::vector<Value*> constants_of(const Graph& graph) {
  std::vector<Value*> found;
  for (Value* value : graph.initializers()) {
    if (value->constant() != nullptr) found.push_back(value);
  }
  for (const Node* node : graph.nodes_of("Constant")) {
    if (node->output() != nullptr && node->output()->constant() != nullptr) found.push_back(node->output());
  }
  return found;
}

// Puts `made` in the place of a constant, whose own storage goes.
void take_place(Graph& graph, Value& old, Value& made) {
  for (const Use& use : std::vector<Use>(old.uses())) {
    if (use.node != nullptr) graph.set_input(*use.node, static_cast<std::size_t>(use.index), &made);
  }
  erase_if_unused(graph, old);
}

Result<StoredConstant> store_on_grid(BctWriter& writer, const BlockedConstant& constant, const Tensor& tensor,
                                     const ShiftLayout& layout, const ShiftFormat& format) {
  OF_ASSIGN(const ShiftCodes codes, quantize_shift_blocks(tensor, layout, format));
  const Tensor rounded = Tensor::of<float>(tensor.dims(), decode_shift_blocks(codes, layout));
  Value* made = add_constant(writer.graph(), rounded, constant.value->name() + "_rounded");
  take_place(writer.graph(), *constant.value, *made);
  return StoredConstant{made, rounded.nbytes()};
}

}  // namespace

std::vector<BlockedConstant> find_blocked_constants(const Graph& graph, PassContext& context) {
  std::vector<BlockedConstant> found;
  for (Value* value : constants_of(graph)) {
    const Tensor& tensor = *value->constant();
    if (!is_float(tensor.dtype()) || tensor.size() < 2 || value->uses().empty()) continue;
    std::vector<Reading> readings;
    collect(*value, tensor, readings);
    const auto problem =
        std::find_if(readings.begin(), readings.end(), [](const Reading& r) { return !r.problem.empty(); });
    std::string why = problem != readings.end() ? problem->problem : "";
    if (tensor.dtype() != DType::kFloat32) why = fmt::format("has type {}, need float32", name(tensor.dtype()));
    if (readings.empty()) continue;
    const auto weight = std::find_if(readings.begin(), readings.end(),
                                     [](const Reading& r) { return r.role == ConstantRole::kWeight; });
    Reading chosen = weight != readings.end() ? *weight : readings.front();
    if (why.empty() && chosen.role != ConstantRole::kWeight && looks_like_mask(tensor)) why = "looks like a mask";
    if (!why.empty()) {
      context.skipped(value->name(), "stays in float: " + why, tensor.nbytes());
      continue;
    }
    const bool table =
        std::any_of(readings.begin(), readings.end(), [](const Reading& r) { return r.role == ConstantRole::kTable; });
    if (weight == readings.end() && table) chosen.role = ConstantRole::kTable;
    if (chosen.axis < 0 || chosen.axis >= tensor.rank()) chosen.axis = tensor.rank() - 1;
    found.push_back({value, chosen.role, chosen.axis, chosen.joined});
  }
  return found;
}

Result<StoredConstant> store_in_blocks(BctWriter& writer, const BlockedConstant& constant, const ShiftFormat& format) {
  const Tensor tensor = *constant.value->constant();
  const ShiftLayout layout = ShiftLayout::of(tensor.dims(), constant.axis, constant.joined, format.block);
  if (tensor.size() < kDecodedFrom) return store_on_grid(writer, constant, tensor, layout, format);
  Graph& graph = writer.graph();
  const ShiftTensors stored = shift_tensors(tensor, layout, format);
  const std::string stem = constant.value->name();
  const bool single = layout.blocks() == 1, moved = layout.flat() && layout.inner > 1;
  const bool shaped = !moved && (single || (!layout.flat() && !constant.joined));  // codes lie as the constant does
  Dims dims = shaped ? tensor.dims() : layout.flat() ? stored.codes.dims() : Dims{layout.outer, layout.length};
  Dims scale_dims = single ? Dims{} : layout.flat() ? stored.exponents.dims() : dims;
  const std::int64_t axis = layout.flat() ? 0 : constant.axis;
  if (!single && !layout.flat()) {
    scale_dims[static_cast<std::size_t>(axis)] = (layout.length + layout.block - 1) / layout.block;
  }
  const std::vector<Node*> nodes = graph.nodes();
  writer.place(nodes.empty() ? nullptr : nodes.front(), stem);
  Value* codes = add_constant(graph, stored.codes.reshaped(dims), stem + "_codes");
  Value* exponents = add_constant(graph, stored.exponents.reshaped(scale_dims), stem + "_exponents");
  Value* scale = writer.powers(exponents);
  std::vector<Attribute> list;
  if (!single) list = attributes("axis", axis, "block_size", layout.block);
  Value* value = writer.add("DequantizeLinear", {codes, scale}, Type::tensor(DType::kFloat32, dims), std::move(list));
  if (moved) {
    const Dims turned{layout.outer, layout.inner, layout.length}, back{layout.outer, layout.length, layout.inner};
    value = writer.add("Reshape", {value, writer.axes(turned)}, Type::tensor(DType::kFloat32, turned));
    value = writer.add("Transpose", {value}, Type::tensor(DType::kFloat32, back),
                       attributes("perm", std::vector<std::int64_t>{0, 2, 1}));
    dims = back;
  }
  if (dims != tensor.dims()) {
    value = writer.add("Reshape", {value, writer.axes(tensor.dims())}, Type::tensor(DType::kFloat32, tensor.dims()));
  }
  take_place(graph, *constant.value, *value);
  return StoredConstant{value, shift_bytes(layout, format)};
}

std::int64_t stored_bytes(const BlockedConstant& constant, const ShiftFormat& format) {
  const Tensor& tensor = *constant.value->constant();
  if (tensor.size() < kDecodedFrom) return tensor.nbytes();
  return shift_bytes(ShiftLayout::of(tensor.dims(), constant.axis, constant.joined, format.block), format);
}

}  // namespace onnxfold
