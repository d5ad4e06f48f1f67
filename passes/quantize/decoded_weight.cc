#include "passes/quantize/decoded_weight.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "exec/executor.h"
#include "exec/parallel.h"
#include "ir/match.h"
#include "passes/quantize/packing.h"

namespace onnxfold {
namespace {

constexpr const char* kMicrosoft = "com.microsoft";
constexpr int kDeepest = 16;  // nodes between a constant and who reads it

Result<std::optional<Tensor>> evaluate(const Value* value, int depth) {
  if (value == nullptr || depth > kDeepest) return std::optional<Tensor>();
  if (const Tensor* tensor = constant(value)) return std::optional(*tensor);
  const Node* node = value->producer();
  if (node == nullptr || !node->subgraphs().empty() || node->inputs().empty() || !supports(*node)) {
    return std::optional<Tensor>();
  }
  std::vector<Datum> inputs;
  for (const Value* input : node->inputs()) {
    inputs.emplace_back();
    if (input == nullptr) continue;
    OF_ASSIGN(const auto tensor, evaluate(input, depth + 1));
    if (!tensor) return std::optional<Tensor>();
    OF_ASSIGN(inputs.back(), to_array(*tensor, Precision::kFloat32));
  }
  OF_ASSIGN(const std::vector<Datum> outputs, run_node(*node, std::move(inputs), Precision::kFloat32));
  const auto at = static_cast<std::size_t>(value->output_index());
  if (at >= outputs.size() || !outputs[at].is_array()) return std::optional<Tensor>();
  OF_ASSIGN(Tensor tensor, to_tensor(outputs[at].array));
  return std::optional(std::move(tensor));
}

DecodedWeight refuse(std::string why) { return {std::move(why), {}}; }

// What operators read beside the codes, as numbers.
struct Numbers {
  std::vector<float> scales;
  std::vector<float> zeros;  // one a scale
  Dims dims;                 // of the scales
  DType type = DType::kFloat32;
};

// codes[i] as float for the storage of integer and small float types.
template <typename Put>
bool for_each_number(const Array& codes, Put put) {
  const auto walk = [&](const auto* data) {
    parallel_for(codes.size(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) put(i, static_cast<double>(data[i]));
    });
    return true;
  };
  switch (codes.storage()) {
    case Storage::kInt8:
      return walk(codes.data<std::int8_t>());
    case Storage::kUint8:
      return walk(codes.data<std::uint8_t>());
    case Storage::kInt16:
      return walk(codes.data<std::int16_t>());
    case Storage::kUint16:
      return walk(codes.data<std::uint16_t>());
    case Storage::kInt32:
      return walk(codes.data<std::int32_t>());
    case Storage::kFloat:
      return walk(codes.data<float>());
    default:
      return false;
  }
}

// Which scale an element of the codes has.
struct ScaleMap {
  std::int64_t inner = 1, along = 1, block = 1, blocks = 1;  // along: length of the axis
  bool one = false;                                          // one scale for all

  std::int64_t operator()(std::int64_t i) const {
    if (one) return 0;
    return (i / inner / along * blocks + i / inner % along / block) * inner + i % inner;
  }
};

// One scale for each index of the axis.
struct AxisMap {
  std::int64_t inner = 1, along = 1;
};

class LinearDecoder {
 public:
  explicit LinearDecoder(const Node& node) : node_(node) {}

  DecodedWeight run() {
    const Tensor* codes = constant(node_.input(0));
    if (codes == nullptr) return refuse("is not constant");
    codes_ = *codes;
    if (!load_numbers()) return refuse("scales or zero points are not constant");
    if (const std::string why = lay_out(); !why.empty()) return refuse(why);
    DType type = numbers_.type;
    if (const std::int64_t asked = node_.attr_int("output_dtype", 0); asked != 0) type = static_cast<DType>(asked);
    if (!is_float(type)) return refuse("its result is no floating-point number");
    return {"", Tensor::deferred(type, codes_.dims(),
                                 [type, codes = codes_, numbers = numbers_, map = map_, by_axis = by_axis_,
                                  axis = axis_map_]() -> Result<Buffer> {
                                   return decode(type, codes, numbers, by_axis, axis, map);
                                 })};
  }

 private:
  static Result<Buffer> decode(DType type, const Tensor& codes, const Numbers& numbers, bool by_axis,
                               const AxisMap& axis, const ScaleMap& map) {
    OF_ASSIGN(const Array array, to_array(codes, Precision::kFloat32));
    std::vector<float> out(static_cast<std::size_t>(array.size()));
    const bool known = for_each_number(array, [&](std::int64_t i, double code) {
      const auto at = static_cast<std::size_t>(by_axis ? i / axis.inner % axis.along : map(i));
      const double zero = numbers.zeros.empty() ? 0.0 : static_cast<double>(numbers.zeros[at]);
      out[static_cast<std::size_t>(i)] = static_cast<float>((code - zero) * static_cast<double>(numbers.scales[at]));
    });
    if (!known) return fail(Code::kUnsupported, fmt::format("codes of type {}", name(codes.dtype())));
    return to_bytes(type, out);
  }

  bool load_numbers() {
    const auto scales = constant_value(node_.input(1));
    if (!scales || !*scales || !is_float((*scales)->dtype())) return false;
    auto numbers = to_floats(**scales);
    if (!numbers) return false;
    numbers_ = {std::move(*numbers), {}, (*scales)->dims(), (*scales)->dtype()};
    if (node_.input(2) == nullptr) return true;
    const auto zeros = constant_value(node_.input(2));
    if (!zeros || !*zeros || (*zeros)->size() != (*scales)->size()) return false;
    auto array = to_array(**zeros, Precision::kFloat32);
    if (!array) return false;
    numbers_.zeros.resize(numbers_.scales.size());
    return for_each_number(*array, [&](std::int64_t i, double zero) {
      numbers_.zeros[static_cast<std::size_t>(i)] = static_cast<float>(zero);
    });
  }

  std::string lay_out() {
    const Dims& dims = codes_.dims();
    const auto rank = static_cast<std::int64_t>(dims.size());
    if (numbers_.scales.size() == 1) {
      map_.one = true;
      return {};
    }
    std::int64_t axis = node_.attr_int("axis", 1);
    if (axis < 0) axis += rank;
    if (axis < 0 || axis >= rank) return "axis is out of range";
    std::int64_t inner = 1;
    for (std::int64_t i = axis + 1; i < rank; ++i) inner *= dims[static_cast<std::size_t>(i)];
    const std::int64_t along = dims[static_cast<std::size_t>(axis)];
    const std::int64_t block = node_.attr_int("block_size", 0);
    if (block == 0) {
      by_axis_ = true;
      axis_map_ = {inner, along};
      return numbers_.dims == Dims{along} ? "" : "scales do not fit the axis";
    }
    if (block < 0) return "block_size is negative";
    Dims due = dims;
    due[static_cast<std::size_t>(axis)] = along / block + (along % block != 0 ? 1 : 0);
    map_ = {inner, along, block, due[static_cast<std::size_t>(axis)], false};
    return numbers_.dims == due ? "" : "scales do not fit the blocks";
  }

  const Node& node_;
  Tensor codes_;
  Numbers numbers_;
  bool by_axis_ = false;
  AxisMap axis_map_;
  ScaleMap map_;
};

// Rows of codes in packed bytes, blocks along them, as MatMulNBits and tables of uint8 have them.
struct PackedRows {
  std::int64_t rows = 0, cols = 0, block = 0, blocks = 0, stride = 0;  // stride: codes from row to row
  int bits = 4;
  Tensor codes;
  std::vector<float> scales, zeros;  // [rows, blocks]
  std::vector<std::int32_t> groups;  // g_idx; empty: by block
  DType type = DType::kFloat32;

  // [rows, cols], or the transpose.
  Result<Buffer> decode(bool by_rows) const {
    OF_ASSIGN(const Bytes bytes, codes.bytes());
    const auto* packed = reinterpret_cast<const std::uint8_t*>(bytes.data());
    const unsigned mask = (1U << static_cast<unsigned>(bits)) - 1;
    std::vector<float> out(static_cast<std::size_t>(rows * cols));
    parallel_for(rows, 32, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t col = 0; col < cols; ++col) {
        for (std::int64_t row = begin; row < end; ++row) {
          const std::int64_t bit = (row * stride + col) * bits;
          const unsigned code = (static_cast<unsigned>(packed[bit / 8]) >> static_cast<unsigned>(bit % 8)) & mask;
          const std::int64_t group = groups.empty() ? col / block : groups[static_cast<std::size_t>(col)];
          const auto at = static_cast<std::size_t>(row * blocks + group);
          const double value =
              (static_cast<double>(code) - static_cast<double>(zeros[at])) * static_cast<double>(scales[at]);
          out[static_cast<std::size_t>(by_rows ? row * cols + col : col * rows + row)] = static_cast<float>(value);
        }
      }
    });
    return to_bytes(type, out);
  }
};

// Scales and zero points of packed rows. What keeps them from being read; empty: nothing.
std::string load_packed(PackedRows& packed, const Value* scales, const Value* zeros) {
  const auto found = constant_value(scales);
  if (!found || !*found || !is_float((*found)->dtype())) return "scales are not constant";
  if ((*found)->size() != packed.rows * packed.blocks) return "scales do not fit the weight";
  packed.type = (*found)->dtype();
  packed.scales = to_floats(**found).value_or(std::vector<float>());
  if (packed.scales.empty()) return "scales cannot be read";
  packed.zeros.assign(packed.scales.size(), static_cast<float>(1 << (packed.bits - 1)));
  if (zeros == nullptr) return {};
  const auto given = constant_value(zeros);
  if (!given || !*given) return "zero points are not constant";
  const Tensor& tensor = **given;
  if (is_float(tensor.dtype())) {
    if (tensor.size() != packed.rows * packed.blocks) return "zero points do not fit the weight";
    packed.zeros = to_floats(tensor).value_or(packed.zeros);
    return {};
  }
  const std::int64_t per_byte = 8 / packed.bits, stride = (packed.blocks + per_byte - 1) / per_byte;
  if (tensor.dtype() != DType::kUint8 || tensor.size() != packed.rows * stride) {
    return "zero points do not fit the weight";
  }
  const auto bytes = tensor.bytes();
  if (!bytes) return bytes.error().message;
  const std::vector<std::uint8_t> codes = unpack(bytes->span(), packed.bits, packed.rows * stride * per_byte);
  for (std::int64_t row = 0; row < packed.rows; ++row) {
    for (std::int64_t b = 0; b < packed.blocks; ++b) {
      packed.zeros[static_cast<std::size_t>(row * packed.blocks + b)] =
          static_cast<float>(codes[static_cast<std::size_t>(row * stride * per_byte + b)]);
    }
  }
  return {};
}

std::string load_groups(PackedRows& packed, const Value* value) {
  if (value == nullptr) return {};
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || tensor->dtype() != DType::kInt32 || tensor->size() < packed.cols) {
    return "g_idx is not constant or does not fit K";
  }
  const auto numbers = to_doubles(*tensor);
  if (!numbers) return numbers.error().message;
  for (std::int64_t col = 0; col < packed.cols; ++col) {
    const double group = (*numbers)[static_cast<std::size_t>(col)];
    if (group < 0 || group >= static_cast<double>(packed.blocks)) return "g_idx holds a group that does not exist";
    packed.groups.push_back(static_cast<std::int32_t>(group));
  }
  return {};
}

bool plain_block(std::int64_t block) { return block >= 16 && (block & (block - 1)) == 0; }
bool plain_bits(std::int64_t bits) { return bits == 2 || bits == 4 || bits == 8; }

DecodedWeight deferred(PackedRows packed, bool by_rows) {
  const Dims dims = by_rows ? Dims{packed.rows, packed.cols} : Dims{packed.cols, packed.rows};
  const DType type = packed.type;
  return {"", Tensor::deferred(type, dims, [packed = std::move(packed), by_rows] { return packed.decode(by_rows); })};
}

// int4 and uint4 tables: as DequantizeLinear, but that missing zero points are 0 in both.
DecodedWeight decode_int4_table(const Node& node, const Tensor& codes) {
  std::int64_t axis = node.attr_int("quantize_axis", 1);
  const auto rank = static_cast<std::int64_t>(codes.rank());
  if (axis < 0) axis += rank;
  const std::int64_t block = node.attr_int("block_size", 128);
  if (axis < 0 || axis >= rank || !plain_block(block)) return refuse("quantize_axis or block_size is out of range");
  const auto scales = constant_value(node.input(2));
  if (!scales || !*scales || !is_float((*scales)->dtype())) return refuse("scales are not constant");
  Dims due = codes.dims();
  std::int64_t& along = due[static_cast<std::size_t>(axis)];
  const std::int64_t length = along;
  along = (along + block - 1) / block;
  if ((*scales)->dims() != due) return refuse("scales do not fit the table");
  std::optional<Tensor> zeros;
  if (node.input(3) != nullptr) {
    const auto given = constant_value(node.input(3));
    if (!given || !*given || (*given)->dims() != due) return refuse("zero points do not fit the table");
    zeros = **given;
  }
  std::int64_t inner = 1;
  for (std::int64_t i = axis + 1; i < rank; ++i) inner *= due[static_cast<std::size_t>(i)];
  const ScaleMap map{inner, length, block, due[static_cast<std::size_t>(axis)], false};
  const DType type = (*scales)->dtype();
  return {"", Tensor::deferred(type, codes.dims(), [codes, scale = **scales, zeros, map, type]() -> Result<Buffer> {
            OF_ASSIGN(const Array array, to_array(codes, Precision::kFloat32));
            OF_ASSIGN(const std::vector<float> steps, to_floats(scale));
            std::vector<double> middle;
            if (zeros) {
              OF_ASSIGN(const Array given, to_array(*zeros, Precision::kFloat32));
              OF_ASSIGN(middle, to_doubles(given));
            }
            std::vector<float> out(static_cast<std::size_t>(array.size()));
            for_each_number(array, [&](std::int64_t i, double code) {
              const auto at = static_cast<std::size_t>(map(i));
              const double zero = middle.empty() ? 0.0 : middle[at];
              out[static_cast<std::size_t>(i)] = static_cast<float>((code - zero) * static_cast<double>(steps[at]));
            });
            return to_bytes(type, out);
          })};
}

// A Slice that leaves the beginnings of rows: a table that reads the codes of a product whose last block is not full.
bool cuts_rows(const Node* node) {
  if (node == nullptr || !node->is("Slice") || node->input(0)->rank() != 2 || node->input(4) != nullptr) return false;
  return int_constants(node->input(1)) == std::vector<std::int64_t>{0} &&
         int_constants(node->input(3)) == std::vector<std::int64_t>{1};
}

}  // namespace

Result<std::optional<Tensor>> constant_value(const Value* value) { return evaluate(value, 0); }

DecodedWeight decode_linear(const Node& node) { return LinearDecoder(node).run(); }

const Value* packed_codes(const Node& node) {
  const Value* value = node.input(node.is("MatMulNBits", kMicrosoft) ? 1 : 0);
  if (value != nullptr && cuts_rows(value->producer())) value = value->producer()->input(0);
  if (value != nullptr && value->producer() != nullptr && value->producer()->is("Reshape")) {
    value = value->producer()->input(0);
  }
  return constant(value) != nullptr ? value : nullptr;
}

DecodedWeight decode_product(const Node& node, bool by_rows) {
  const Value* codes = packed_codes(node);
  if (codes == nullptr) return refuse("weight is not constant");
  PackedRows packed;
  const std::int64_t bits = node.attr_int("bits", 4);
  packed.rows = node.attr_int("N", 0);
  packed.cols = node.attr_int("K", 0);
  packed.block = node.attr_int("block_size", 0);
  if (!plain_bits(bits)) return refuse(fmt::format("{} bits", bits));
  if (node.attr_int("weight_prepacked", 0) != 0) return refuse("weight is packed for one machine");
  const Tensor& tensor = *constant(codes);
  if (packed.rows <= 0 || packed.cols <= 0 || !plain_block(packed.block) || packed.block > tensor.size() * 8) {
    return refuse("K, N or block_size is out of range");
  }
  packed.bits = static_cast<int>(bits);
  packed.blocks = (packed.cols - 1) / packed.block + 1;
  packed.stride = packed.blocks * packed.block;
  packed.codes = tensor;
  std::int64_t due = 0;
  if (__builtin_mul_overflow(packed.rows, packed.stride, &due) || __builtin_mul_overflow(due, bits, &due) ||
      tensor.dtype() != DType::kUint8 || tensor.size() != due / 8) {
    return refuse("weight does not fit K and N");
  }
  if (auto why = load_packed(packed, node.input(2), node.input(3)); !why.empty()) return refuse(why);
  if (auto why = load_groups(packed, node.input(4)); !why.empty()) return refuse(why);
  return deferred(std::move(packed), by_rows);
}

DecodedWeight decode_table(const Node& node) {
  const Value* codes = packed_codes(node);
  if (codes == nullptr) return refuse("table is not constant");
  const Tensor& tensor = *constant(codes);
  if (tensor.dtype() == DType::kInt4 || tensor.dtype() == DType::kUint4) return decode_int4_table(node, tensor);
  PackedRows packed;
  const std::int64_t bits = node.attr_int("bits", 4);
  packed.block = node.attr_int("block_size", 128);
  const auto read = node.input(0)->static_dims();
  if (tensor.dtype() != DType::kUint8) return refuse(fmt::format("table has type {}", name(tensor.dtype())));
  if (!plain_bits(bits) || !plain_block(packed.block)) return refuse("bits or block_size is out of range");
  const Dims dims = codes == node.input(0) ? tensor.dims() : read.value_or(Dims());
  if (dims.size() != 2 || dims[0] <= 0) return refuse("table has another rank than 2");
  const std::int64_t axis = node.attr_int("quantize_axis", 1);
  if (axis != 1 && axis != -1) return refuse("quantized along another axis than the last");
  packed.bits = static_cast<int>(bits);
  packed.rows = dims[0];
  packed.cols = dims[1] * 8 / bits;
  packed.blocks = (packed.cols + packed.block - 1) / packed.block;
  packed.codes = tensor;
  const std::int64_t row_bytes = cuts_rows(node.input(0)->producer()) ? tensor.size() / dims[0] : dims[1];
  packed.stride = row_bytes * 8 / bits;
  if (dims[0] * row_bytes != tensor.size() || row_bytes < dims[1] || packed.cols == 0) {
    return refuse("table is empty or of another size");
  }
  if (auto why = load_packed(packed, node.input(2), node.input(3)); !why.empty()) return refuse(why);
  return deferred(std::move(packed), /*by_rows=*/true);
}

}  // namespace onnxfold
