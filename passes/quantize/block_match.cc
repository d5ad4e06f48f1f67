#include "passes/quantize/block_match.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "ir/match.h"
#include "passes/quantize/packing.h"
#include "passes/quantize/weight_target.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kTwoBitOpset = 25;

BlockMatch refuse(std::string why) {
  BlockMatch match;
  match.why = std::move(why);
  return match;
}

bool power_of_two(std::int64_t x) { return x > 0 && (x & (x - 1)) == 0; }

std::int64_t blocks_of(std::int64_t cols, std::int64_t block) { return cols / block + (cols % block != 0 ? 1 : 0); }

// Product of small factors, -1 when it overflows: a size that no tensor has.
std::int64_t product(std::initializer_list<std::int64_t> factors) {
  std::int64_t result = 1;
  for (const std::int64_t factor : factors) {
    if (__builtin_mul_overflow(result, factor, &result)) return -1;
  }
  return result;
}

// Whole float zero points [rows, blocks] as packed bytes, or why they are none.
std::string pack_float_zeros(StoredBlocks& weight) {
  const auto values = to_doubles(weight.zeros);
  if (!values) return values.error().message;
  BlockCodes codes;
  codes.rows = weight.rows;
  codes.blocks = weight.blocks();
  for (const double value : *values) {
    if (!(value >= 0 && value < (1 << weight.bits)) || value != std::floor(value)) {
      return "a zero point is no whole number of the weight's range";
    }
    codes.zeros.push_back(static_cast<std::uint8_t>(value));
  }
  weight.zeros = Tensor::owned(DType::kUint8, {codes.rows, (codes.blocks * weight.bits + 7) / 8},
                               pack_zero_rows(codes, weight.bits));
  return {};
}

// Optional zero points of a packed layout.
std::string take_packed_zeros(const Value* value, StoredBlocks& weight) {
  if (value == nullptr) return {};
  const Tensor* zeros = constant(value);
  if (zeros == nullptr) return "zero points are not constant";
  weight.zeros = *zeros;
  if (zeros->dtype() == DType::kUint8) {
    const bool fits = zeros->size() == weight.rows * ((weight.blocks() * weight.bits + 7) / 8);
    return fits ? "" : "zero points do not fit the weight";
  }
  if (!is_float(zeros->dtype())) return fmt::format("zero points have type {}", name(zeros->dtype()));
  if (zeros->size() != weight.rows * weight.blocks()) return "zero points do not fit the weight";
  return pack_float_zeros(weight);
}

std::string bits_refusal(const Node& node, std::int64_t bits) {
  if (bits != 2 && bits != 4 && bits != 8) return fmt::format("{} bits", bits);
  if (bits == 2 && node.graph()->opset() < kTwoBitOpset) return "2 bits need opset 25";
  return {};
}

}  // namespace

BlockMatch match_product(Node& node) {
  if (node.input(4) != nullptr) return refuse("has g_idx");
  const std::int64_t bits = node.attr_int("bits", 4);
  if (auto why = bits_refusal(node, bits); !why.empty()) return refuse(std::move(why));
  if (node.attr_int("weight_prepacked", 0) != 0) return refuse("weight is packed for one machine");
  const Tensor* codes = constant(node.input(1));
  const Tensor* scales = constant(node.input(2));
  if (codes == nullptr) return refuse("weight is not constant");
  if (scales == nullptr) return refuse("scales are not constant");
  BlockMatch match;
  StoredBlocks& w = match.weight;
  w = {BlockLayout::kPadded,
       static_cast<int>(bits),
       node.attr_int("N", 0),
       node.attr_int("K", 0),
       node.attr_int("block_size", 0),
       *codes,
       *scales,
       {}};
  if (w.rows <= 0 || w.cols <= 0 || w.block < 16 || !power_of_two(w.block)) {
    return refuse("K, N or block_size is out of range");
  }
  const std::int64_t blocks = blocks_of(w.cols, w.block);
  if (codes->dtype() != DType::kUint8 || w.block > codes->size() * 8 ||
      codes->size() != product({w.rows, blocks, w.block * bits / 8}) || scales->size() != w.rows * blocks ||
      !is_float(scales->dtype())) {
    return refuse("weight or scales do not fit K and N");
  }
  if (bits == 2 && w.rows % 4 != 0) return refuse(kTornFusion);
  match.why = take_packed_zeros(node.input(3), w);
  return match;
}

namespace {

// Tables of int4 and uint4 are in the standard packing already.
BlockMatch match_int4_table(const Node& node, const Tensor& codes, const Tensor& scales, std::int64_t axis) {
  BlockMatch match;
  match.as_is = true;
  match.axis = axis;
  StoredBlocks& w = match.weight;
  w.layout = BlockLayout::kStandard;
  w.codes = codes;
  w.scales = scales;
  w.block = node.attr_int("block_size", 128);
  if (node.attr_int("bits", 4) != 4) return refuse("bits contradict the type of the table");
  Dims due = codes.dims();
  due[static_cast<std::size_t>(axis)] = blocks_of(due[static_cast<std::size_t>(axis)], w.block);
  if (scales.dims() != due) return refuse("scales do not fit the table");
  if (node.input(3) == nullptr) return match;
  const Tensor* zeros = constant(node.input(3));
  if (zeros == nullptr) return refuse("zero points are not constant");
  if (zeros->dims() != due || zeros->dtype() != codes.dtype()) return refuse("zero points do not fit the table");
  w.zeros = *zeros;
  return match;
}

}  // namespace

BlockMatch match_table(Node& node) {
  const Tensor* codes = constant(node.input(0));
  const Tensor* scales = constant(node.input(2));
  if (codes == nullptr) return refuse("table is not constant");
  if (scales == nullptr) return refuse("scales are not constant");
  const std::int64_t block = node.attr_int("block_size", 128);
  if (block < 16 || !power_of_two(block)) return refuse("block_size is out of range");
  if (codes->size() == 0 || codes->rank() == 0) return refuse("table is empty or a scalar");
  if (!is_float(scales->dtype())) return refuse("scales are no floating-point numbers");
  std::int64_t axis = node.attr_int("quantize_axis", 1);
  if (axis < 0) axis += codes->rank();
  if (axis < 0 || axis >= codes->rank()) return refuse("quantize_axis is out of range");
  if (codes->dtype() == DType::kInt4 || codes->dtype() == DType::kUint4) {
    return match_int4_table(node, *codes, *scales, axis);
  }
  if (codes->dtype() != DType::kUint8) return refuse(fmt::format("table has type {}", name(codes->dtype())));
  const std::int64_t bits = node.attr_int("bits", 4);
  if (auto why = bits_refusal(node, bits); !why.empty()) return refuse(std::move(why));
  if (codes->rank() != 2) return refuse(fmt::format("table has rank {}, need 2", codes->rank()));
  if (axis != 1) return refuse("quantized along another axis than the last");
  BlockMatch match;
  StoredBlocks& w = match.weight;
  w = {BlockLayout::kTable,
       static_cast<int>(bits),
       codes->dims()[0],
       codes->dims()[1] * 8 / bits,
       block,
       *codes,
       *scales,
       {}};
  if (scales->size() != w.rows * blocks_of(w.cols, block)) return refuse("scales do not fit the table");
  match.why = take_packed_zeros(node.input(3), w);
  return match;
}

namespace {

// A constant scale, also one stored as float16 and widened by a Cast.
std::optional<Tensor> scale_of(const Value* value) {
  if (const Tensor* tensor = constant(value)) return *tensor;
  const Node* cast = value != nullptr ? value->producer() : nullptr;
  if (cast == nullptr || !cast->is("Cast")) return {};
  const Tensor* half = constant(cast->input(0));
  const bool widens = cast->attr_int("to", 0) == static_cast<std::int64_t>(DType::kFloat32);
  if (half == nullptr || half->dtype() != DType::kFloat16 || !widens) return {};
  return Tensor::deferred(DType::kFloat32, half->dims(), [source = *half]() -> Result<Buffer> {
    OF_ASSIGN(const std::vector<float> values, to_floats(source));
    const auto bytes = std::as_bytes(std::span(values));
    return Buffer(bytes.begin(), bytes.end());
  });
}

// Why the reader of a dequantized weight has no fused form.
std::string consumer_refusal(const Node* reader, const Value* weight, std::int64_t axis) {
  if (reader == nullptr) return "read more than once, or outside its graph";
  if (reader->is("Gather")) {
    if (reader->input(0) != weight) return "gives the indices of a Gather";
    if (axis != 1) return "a gathered table has its blocks along columns";
    const std::int64_t along = reader->attr_int("axis", 0);
    return along == 0 || along == -2 ? "" : "gathered along columns";
  }
  if (!reader->is("MatMul") && !reader->is("Gemm")) return fmt::format("read by {}", reader->op_type());
  if (reader->input(1) != weight) return fmt::format("is not the right operand of {}", reader->op_type());
  if (axis != 0) return "blocks do not run along axis 0";
  if (reader->is("MatMul")) return {};
  if (reader->attr_int("transA", 0) != 0 || reader->attr_int("transB", 0) != 0) return "Gemm transposes an operand";
  const bool beta = reader->input(2) != nullptr && reader->attr_float("beta", 1) != 1;
  return beta || reader->attr_float("alpha", 1) != 1 ? "Gemm scales by alpha or beta" : "";
}

std::string standard_refusal(const Node& node, const StoredBlocks& w, std::int64_t axis) {
  const DType type = w.codes.dtype();
  if (!is_integer(type) || (bit_width(type) != 2 && bit_width(type) != 4 && bit_width(type) != 8)) {
    return fmt::format("weight has type {}", name(type));
  }
  if (w.codes.rank() != 2) return fmt::format("weight has rank {}, need 2", w.codes.rank());
  if (w.codes.size() == 0) return "weight is empty";
  if (w.block == 0) return "not quantized in blocks";
  if (!power_of_two(w.block) || w.block < 16 || w.block > 256) {
    return fmt::format("blocks of {}, need a power of two from 16 to 256", w.block);
  }
  if (axis != 0 && axis != 1) return "axis is out of range";
  if (w.scales.dtype() != DType::kFloat32 && w.scales.dtype() != DType::kFloat16) {
    return fmt::format("scales have type {}", name(w.scales.dtype()));
  }
  const std::int64_t output = node.attr_int("output_dtype", 0);
  if (output != 0 && output != static_cast<std::int64_t>(w.scales.dtype()))
    return "result has another type than scales";
  Dims due = w.codes.dims();
  due[static_cast<std::size_t>(axis)] = blocks_of(due[static_cast<std::size_t>(axis)], w.block);
  if (w.scales.dims() != due) return "scales do not fit the weight";
  if (w.zeros.defined() && (w.zeros.dims() != due || w.zeros.dtype() != type))
    return "zero points do not fit the weight";
  return {};
}

}  // namespace

BlockMatch match_standard(Node& node) {
  const Tensor* codes = constant(node.input(0));
  const auto scales = scale_of(node.input(1));
  if (codes == nullptr) return refuse("weight is not constant");
  if (!scales) return refuse("scales are not constant");
  BlockMatch match;
  StoredBlocks& w = match.weight;
  w.codes = *codes;
  w.scales = *scales;
  w.block = node.attr_int("block_size", 0);
  w.bits = bit_width(codes->dtype());
  if (node.input(2) != nullptr) {
    const Tensor* zeros = constant(node.input(2));
    if (zeros == nullptr) return refuse("zero points are not constant");
    w.zeros = *zeros;
  }
  std::int64_t axis = node.attr_int("axis", 1);
  if (axis < 0) axis += codes->rank();
  if (auto why = standard_refusal(node, w, axis); !why.empty()) return refuse(std::move(why));
  match.consumer = sole_consumer(node.output());
  if (auto why = consumer_refusal(match.consumer, node.output(), axis); !why.empty()) return refuse(std::move(why));
  w.layout = axis == 0 ? BlockLayout::kStandardAcross : BlockLayout::kStandard;
  w.rows = codes->dims()[axis == 0 ? 1 : 0];
  w.cols = codes->dims()[static_cast<std::size_t>(axis)];
  if (axis == 1 && w.cols * w.bits % 8 != 0) return refuse("a row does not fill whole bytes");
  return match;
}

}  // namespace onnxfold
