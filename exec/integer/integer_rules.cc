#include "exec/integer/integer_rules.h"

#include <algorithm>
#include <cmath>

#include "exec/dispatch.h"
#include "exec/executor.h"

namespace onnxfold {
namespace {

using MaybeCell = std::optional<Cell>;

Cell fixed_cell(FixedArray fixed) { return {std::make_shared<const FixedArray>(std::move(fixed)), Datum()}; }
MaybeCell fixed_cell(std::optional<FixedArray> fixed) {
  if (!fixed) return {};
  return fixed_cell(std::move(*fixed));
}

// Exponents of scales that are all powers of two, and how they lie along the data: element -> scale.
struct Scales {
  std::vector<std::int32_t> exponents;
  std::int64_t dim = 1, inner = 1, block = 0, blocks = 1;  // block 0: one scale
  bool along_all = false;

  std::size_t of(std::int64_t element) const {
    if (block == 0) return 0;
    const std::int64_t i = element / inner % dim / block;
    return static_cast<std::size_t>(along_all ? (element / inner / dim * blocks + i) * inner + element % inner : i);
  }
};

std::optional<Scales> scales_of(const Node& node, const Dims& dims, const Array& array) {
  if (array.storage() != Storage::kFloat) return {};
  Scales scales;
  for (std::int64_t i = 0; i < array.size(); ++i) {
    int power = 0;
    if (std::frexp(array.data<float>()[i], &power) != 0.5F) return {};
    scales.exponents.push_back(power - 1);
  }
  if (array.size() == 1 && array.rank() <= 1) return scales;
  const auto rank = static_cast<std::int64_t>(dims.size());
  std::int64_t axis = node.attr_int("axis", 1);
  if (axis < 0) axis += rank;
  if (axis < 0 || axis >= rank) return {};
  scales.dim = dims[static_cast<std::size_t>(axis)];
  for (std::int64_t i = axis + 1; i < rank; ++i) scales.inner *= dims[static_cast<std::size_t>(i)];
  const std::int64_t block = node.attr_int("block_size", 0);
  if (array.rank() == 1 && (block == 0 || rank != 1)) {
    scales.block = 1;
    scales.blocks = scales.dim;
    return array.size() == scales.dim ? std::optional(scales) : std::nullopt;
  }
  if (array.rank() != rank) return {};
  scales.along_all = true;
  scales.blocks = array.dims()[static_cast<std::size_t>(axis)];
  if (scales.blocks < 1) return {};
  scales.block = block > 0 ? block : (scales.dim + scales.blocks - 1) / scales.blocks;
  Dims expected = dims;
  expected[static_cast<std::size_t>(axis)] = (scales.dim + scales.block - 1) / scales.block;
  return array.dims() == expected ? std::optional(scales) : std::nullopt;
}

// Zero points, one for each scale; empty: zeros.
std::vector<std::int64_t> zeros_of(const std::vector<Cell>& cells) {
  if (cells.size() < 3 || !cells[2].datum.is_array()) return {};
  return to_int64s(cells[2].datum.array).value_or(std::vector<std::int64_t>());
}

MaybeCell quantize(const Node& node, const std::vector<Cell>& cells) {
  const auto x = fixed_of(cells[0]);
  if (x == nullptr) return {};
  const Datum scale_data = datum_of(cells[1]);
  if (!scale_data.is_array()) return {};
  const auto scales = scales_of(node, x->dims, scale_data.array);
  const auto given = static_cast<DType>(node.attr_int("output_dtype", 0));
  const bool zero = cells.size() > 2 && cells[2].datum.is_array();
  const DType to = zero ? cells[2].datum.array.dtype() : given == DType::kUndefined ? DType::kUint8 : given;
  if (!scales || !is_integer(to)) return {};
  const std::vector<std::int64_t> zeros = zeros_of(cells);
  const int bits = bit_width(to);
  const std::int64_t low = is_signed(to) ? -(std::int64_t{1} << (bits - 1)) : 0;
  const std::int64_t high = low + (std::int64_t{1} << bits) - 1;
  Array codes(to, x->dims, Precision::kFloat32);
  visit_integer(codes.storage(), [&]<typename T>(Tag<T>) {
    for (std::size_t i = 0; i < x->size(); ++i) {
      const std::size_t s = scales->of(static_cast<std::int64_t>(i));
      codes.mutable_data<T>()[i] = static_cast<T>(
          fixed_code(x->mantissas[i], x->exponents[i], scales->exponents[s], zeros.empty() ? 0 : zeros[s], low, high));
    }
  });
  return Cell{nullptr, Datum(std::move(codes))};
}

MaybeCell dequantize(const Node& node, const std::vector<Cell>& cells) {
  const Datum scale_data = datum_of(cells[1]);
  if (!cells[0].datum.is_array() || !scale_data.is_array()) return {};
  const Array& codes = cells[0].datum.array;
  if (!is_integer(codes.dtype()) || scale_data.array.dtype() != DType::kFloat32) return {};
  const auto scales = scales_of(node, codes.dims(), scale_data.array);
  if (!scales) return {};
  const std::vector<std::int64_t> zeros = zeros_of(cells);
  FixedArray fixed = fixed_from_integers(codes);
  for (std::size_t i = 0; i < fixed.size(); ++i) {
    const std::size_t s = scales->of(static_cast<std::int64_t>(i));
    if (!zeros.empty()) fixed.mantissas[i] -= zeros[s];
    if (fixed.mantissas[i] != 0) fixed.exponents[i] = scales->exponents[s];
  }
  return fixed_cell(std::move(fixed));
}

MaybeCell binary(FixedBinary op, const std::vector<Cell>& cells, Peak& peak) {
  const auto a = fixed_of(cells[0]), b = fixed_of(cells[1]);
  if (a == nullptr || b == nullptr) return {};
  return fixed_cell(fixed_binary(op, *a, *b, peak));
}

MaybeCell product(const std::vector<Cell>& cells, Peak& peak) {
  const auto a = fixed_of(cells[0]), b = fixed_of(cells[1]);
  if (a == nullptr || b == nullptr) return {};
  return fixed_cell(fixed_matmul(*a, *b, peak));
}

MaybeCell gemm(const Node& node, const std::vector<Cell>& cells, Peak& peak) {
  auto a = fixed_of(cells[0]), b = fixed_of(cells[1]);
  if (a == nullptr || b == nullptr || a->dims.size() != 2 || b->dims.size() != 2) return {};
  if (node.attr_float("alpha", 1) != 1 || node.attr_float("beta", 1) != 1) return {};
  if (node.attr_int("transA", 0) != 0) a = std::make_shared<const FixedArray>(fixed_transpose(*a));
  if (node.attr_int("transB", 0) != 0) b = std::make_shared<const FixedArray>(fixed_transpose(*b));
  auto out = fixed_matmul(*a, *b, peak);
  if (!out || cells.size() < 3 || !cells[2].present()) return fixed_cell(std::move(out));
  const auto c = fixed_of(cells[2]);
  if (c == nullptr) return {};
  return fixed_cell(fixed_binary(FixedBinary::kAdd, *out, *c, peak));
}

MaybeCell convolution(const Node& node, const std::vector<Cell>& cells, Peak& peak) {
  const auto x = fixed_of(cells[0]), w = fixed_of(cells[1]);
  const std::string padding = node.attr_string("auto_pad", "NOTSET");
  if (x == nullptr || w == nullptr || x->dims.size() < 3 || (padding != "NOTSET" && padding != "VALID")) return {};
  const std::size_t spatial = x->dims.size() - 2;
  FixedConv conv;
  conv.strides = node.attr_ints("strides").value_or(Dims(spatial, 1));
  conv.dilations = node.attr_ints("dilations").value_or(Dims(spatial, 1));
  conv.pads = padding == "VALID" ? Dims(2 * spatial, 0) : node.attr_ints("pads").value_or(Dims(2 * spatial, 0));
  conv.group = node.attr_int("group", 1);
  if (conv.strides.size() != spatial || conv.dilations.size() != spatial || conv.pads.size() != 2 * spatial) return {};
  auto out = fixed_conv(*x, *w, conv, peak);
  if (!out || cells.size() < 3 || !cells[2].present()) return fixed_cell(std::move(out));
  const auto bias = fixed_of(cells[2]);
  if (bias == nullptr) return {};
  FixedArray column = *bias;
  column.dims.insert(column.dims.end(), spatial, 1);
  return fixed_cell(fixed_binary(FixedBinary::kAdd, *out, column, peak));
}

// The one axis of a reduction; none when it reduces several.
std::optional<std::int64_t> reduced_axis(const Node& node, const std::vector<Cell>& cells, std::size_t rank) {
  std::vector<std::int64_t> axes;
  if (const auto given = node.attr_ints("axes")) axes = *given;
  if (cells.size() > 1 && cells[1].datum.is_array()) axes = to_int64s(cells[1].datum.array).value_or(axes);
  if (axes.size() != 1 || node.attr_int("keepdims", 1) == 0) return {};
  const std::int64_t axis = axes[0] < 0 ? axes[0] + static_cast<std::int64_t>(rank) : axes[0];
  return axis >= 0 && axis < static_cast<std::int64_t>(rank) ? std::optional(axis) : std::nullopt;
}

MaybeCell reduce(const Node& node, const std::vector<Cell>& cells, Peak& peak) {
  const auto x = fixed_of(cells[0]);
  if (x == nullptr) return {};
  const auto axis = reduced_axis(node, cells, x->dims.size());
  if (!axis) return {};
  if (node.is("ReduceSum")) return fixed_cell(fixed_sum(*x, *axis, peak));
  return fixed_cell(fixed_max(*x, *axis));
}

MaybeCell signs(const Node& node, const std::vector<Cell>& cells) {
  const auto x = fixed_of(cells[0]);
  if (x == nullptr) return {};
  FixedArray out = *x;
  for (std::int64_t& m : out.mantissas) {
    m = node.is("Neg") ? -m : node.is("Abs") ? std::abs(m) : std::max<std::int64_t>(m, 0);
  }
  return fixed_cell(std::move(out));
}

MaybeCell cast(const Node& node, const std::vector<Cell>& cells) {
  const bool to_float = node.attr_int("to", 0) == static_cast<std::int64_t>(DType::kFloat32);
  if (!to_float || !cells[0].datum.is_array()) return {};
  const Array& x = cells[0].datum.array;
  if (!is_integer(x.dtype()) && x.dtype() != DType::kBool) return {};
  return fixed_cell(fixed_from_integers(x));
}

// The node on the elements as int64 and on their exponents as int32.
Result<MaybeCell> move(const Node& node, const std::vector<Cell>& cells, std::size_t first, std::size_t count) {
  std::vector<Datum> mantissas, exponents;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i < first || i >= first + count || !cells[i].present()) {
      mantissas.push_back(cells[i].datum);
      exponents.push_back(cells[i].datum);
      continue;
    }
    const auto fixed = fixed_of(cells[i]);
    if (fixed == nullptr) return MaybeCell();
    mantissas.emplace_back(mantissa_array(*fixed));
    exponents.emplace_back(exponent_array(*fixed));
  }
  OF_ASSIGN(const std::vector<Datum> high, run_node(node, std::move(mantissas), Precision::kFloat32));
  OF_ASSIGN(const std::vector<Datum> low, run_node(node, std::move(exponents), Precision::kFloat32));
  if (high.empty() || !high[0].is_array()) return MaybeCell();
  return MaybeCell(fixed_cell(fixed_from_parts(high[0].array, low[0].array)));
}

bool any_of(const Node& node, std::initializer_list<std::string_view> names) {
  return std::any_of(names.begin(), names.end(), [&](std::string_view name) { return node.is(name); });
}

}  // namespace

std::shared_ptr<const FixedArray> fixed_of(const Cell& cell) {
  if (cell.fixed != nullptr) return cell.fixed;
  if (!cell.datum.is_array() || cell.datum.array.dtype() != DType::kFloat32) return nullptr;
  auto fixed = fixed_from(cell.datum.array);
  return fixed ? std::make_shared<const FixedArray>(std::move(*fixed)) : nullptr;
}

Datum datum_of(const Cell& cell) { return cell.fixed != nullptr ? Datum(to_floats(*cell.fixed)) : cell.datum; }

bool moves_elements(const Node& node, std::size_t& first, std::size_t& count) {
  first = 0;
  count = 1;
  if (any_of(node, {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Expand", "Tile",
                    "Gather", "GatherElements", "GatherND", "DepthToSpace", "SpaceToDepth"})) {
    return true;
  }
  if (node.is("Split")) return true;
  if (node.is("Concat")) {
    count = node.inputs().size();
    return true;
  }
  if (node.is("Where")) {
    first = 1;
    count = 2;
    return true;
  }
  return false;
}

Result<std::optional<Cell>> integer_result(const Node& node, const std::vector<Cell>& cells, Peak& peak) {
  if (!node.domain().empty() || cells.empty() || !cells[0].present()) return MaybeCell();
  std::size_t first = 0, count = 0;
  if (moves_elements(node, first, count)) return move(node, cells, first, count);
  if (node.is("Cast")) return cast(node, cells);
  if (any_of(node, {"Relu", "Neg", "Abs"})) return signs(node, cells);
  if (cells.size() < 2 || !cells[1].present()) return MaybeCell();
  if (node.is("QuantizeLinear")) return quantize(node, cells);
  if (node.is("DequantizeLinear")) return dequantize(node, cells);
  if (node.is("MatMul")) return product(cells, peak);
  if (node.is("Conv")) return convolution(node, cells, peak);
  if (node.is("Gemm")) return gemm(node, cells, peak);
  if (any_of(node, {"ReduceSum", "ReduceMax"})) return reduce(node, cells, peak);
  if (cells.size() != 2) return MaybeCell();
  if (node.is("Add")) return binary(FixedBinary::kAdd, cells, peak);
  if (node.is("Sub")) return binary(FixedBinary::kSub, cells, peak);
  if (node.is("Mul")) return binary(FixedBinary::kMul, cells, peak);
  if (node.is("Div")) return binary(FixedBinary::kDiv, cells, peak);
  if (node.is("Max")) return binary(FixedBinary::kMax, cells, peak);
  if (node.is("Min")) return binary(FixedBinary::kMin, cells, peak);
  return MaybeCell();
}

}  // namespace onnxfold
