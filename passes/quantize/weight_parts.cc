#include "passes/quantize/weight_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "passes/quantize/packing.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

enum Part { kCodes, kScales, kZeros, kUnits };

DType standard_type(int bits, bool is_signed) {
  if (bits == 8) return is_signed ? DType::kInt8 : DType::kUint8;
  if (bits == 2) return is_signed ? DType::kInt2 : DType::kUint2;
  return is_signed ? DType::kInt4 : DType::kUint4;
}

// ONNX Runtime 1.32 refuses to load a body whose DequantizeLinear reads codes from outside, so a weight of one body
// goes into it. A weight of several stays where it was: it is decoded there, see emit_standard.
Graph& home_of(const WeightTarget& target, bool standard) {
  Graph& inner = *target.node->graph();
  const auto& uses = target.weight->uses();
  const bool alone = std::all_of(uses.begin(), uses.end(),
                                 [&](const Use& use) { return use.node != nullptr && use.node->graph() == &inner; });
  return standard && alone ? inner : *target.weight->graph();
}

// One weight on its way into the graph.
class Builder {
 public:
  Builder(const WeightTarget& target, const WeightOptions& options, std::shared_ptr<LazyBlocks> lazy)
      : target_(target),
        format_(target.format),
        lazy_(std::move(lazy)),
        graph_(home_of(target, target.standard(options))),
        name_(target.weight->name()),
        standard_(target.standard(options)),
        type_(target.scale_type()),
        rows_(target.shape.rows),
        cols_(target.shape.cols),
        blocks_(lazy_->blocks()) {
    const std::vector<Node*> nodes = graph_.nodes();
    front_ = nodes.empty() ? nullptr : nodes.front();
    // Products of the standard form store [K, N] with blocks along axis 0, whatever way the float weight lay: runtimes
    // fuse that.
    inner_ = !standard_ || target.table() ? 1 : target.use == WeightUse::kProduct ? rows_ : target.shape.inner;
  }

  WeightParts run(bool tied);

 private:
  template <typename Pack>
  DeferredFn part(int number, Pack pack) const;
  template <typename Pack>
  Value* add(const std::string& suffix, DType type, Dims dims, int number, Pack pack);
  Value* insert(const char* op, std::vector<Value*> inputs, DType type, Dims dims,
                std::vector<std::pair<std::string, std::int64_t>> attributes = {});
  Value* ints(const std::string& suffix, std::vector<std::int64_t> numbers);

  void add_codes(bool tied);
  void add_zeros();
  Dims by_block(std::int64_t blocks) const;
  Value* scales();
  Value* int8_scales();
  Value* powers();
  // One number a row, for operators that want one a block.
  Value* spread(Value* value, std::int64_t count);
  std::string prefix() const { return standard_ ? "_DQ" : ""; }
  std::int64_t operator_blocks() const {
    const std::int64_t block = operator_block(format_, cols_);
    return (cols_ + block - 1) / block;
  }

  const WeightTarget& target_;
  const BlockFormat& format_;
  std::shared_ptr<LazyBlocks> lazy_;
  Graph& graph_;
  std::string name_;
  bool standard_;
  DType type_;
  std::int64_t rows_, cols_, blocks_, inner_ = 1;
  const Node* front_ = nullptr;
  WeightParts parts_;
};

// Makes one part when the writer asks for it; errors name the weight, since the writer that meets them does not know
// it.
template <typename Pack>
DeferredFn Builder::part(int number, Pack pack) const {
  return [lazy = lazy_, weight = name_, number, pack]() -> Result<Buffer> {
    auto codes = lazy->take(number);
    if (!codes) return fail(codes.error().in(fmt::format("weight '{}'", weight)));
    return pack(**codes);
  };
}

template <typename Pack>
Value* Builder::add(const std::string& suffix, DType type, Dims dims, int number, Pack pack) {
  Tensor tensor = Tensor::deferred(type, std::move(dims), part(number, std::move(pack)));
  parts_.bytes += tensor.nbytes();
  return add_constant(graph_, std::move(tensor), name_ + prefix() + suffix);
}

Value* Builder::insert(const char* op, std::vector<Value*> inputs, DType type, Dims dims,
                       std::vector<std::pair<std::string, std::int64_t>> attributes) {
  NodeSpec spec{op, std::move(inputs), {{name_ + prefix() + "_decoded", Type::tensor(type, dims)}}, {}, "", ""};
  for (auto& [key, value] : attributes) spec.attributes.emplace_back(key, value);
  return graph_.insert(std::move(spec), front_)->output();
}

Value* Builder::ints(const std::string& suffix, std::vector<std::int64_t> numbers) {
  const auto count = static_cast<std::int64_t>(numbers.size());
  return add_constant(graph_, Tensor::of<std::int64_t>({count}, numbers), name_ + prefix() + suffix);
}

// Shape of what there is one of for each block: [rows, blocks] or, standard, the weight's shape with its axis divided;
// one axis only without blocks.
Dims Builder::by_block(std::int64_t blocks) const {
  if (!standard_) return {rows_, blocks};
  if (format_.block == 0) return {rows_};
  if (target_.use == WeightUse::kTable) return {rows_, blocks};
  if (target_.use == WeightUse::kProduct) return {blocks, rows_};
  Dims dims = target_.dims;
  dims[static_cast<std::size_t>(target_.axis)] = blocks;
  return dims;
}

void Builder::add_codes(bool tied) {
  const int bits = format_.stored_bits();
  const std::string suffix = fmt::format("_Q{}", bits);
  if (standard_) {
    const Dims dims = target_.use == WeightUse::kProduct ? Dims{cols_, rows_}
                      : target_.table()                  ? Dims{rows_, cols_}
                                                         : target_.dims;
    const bool is_signed = format_.symmetric;
    parts_.codes = add(
        suffix, standard_type(bits, is_signed), dims, kCodes,
        [bits, is_signed, inner = inner_](const BlockCodes& c) { return pack_standard(c, bits, inner, is_signed); });
    return;
  }
  const std::int64_t block = operator_block(format_, cols_), padded = operator_blocks() * block;
  const bool table = target_.table() && !tied;
  const std::int64_t cols = table ? cols_ : padded;
  parts_.codes = add(suffix, DType::kUint8,
                     table ? Dims{rows_, cols * bits / 8} : Dims{rows_, operator_blocks(), block * bits / 8}, kCodes,
                     [bits, cols](const BlockCodes& c) { return pack_rows(c, bits, cols); });
  if (!tied) return;
  Dims flat{rows_, padded * bits / 8};
  Value* table_codes = insert("Reshape", {parts_.codes, ints("_table_shape", flat)}, DType::kUint8, flat);
  if (padded != cols_) {  // the product's last block goes on behind the row
    flat[1] = cols_ * bits / 8;
    table_codes = insert(
        "Slice", {table_codes, ints("_table_begin", {0}), ints("_table_end", {flat[1]}), ints("_table_axis", {1})},
        DType::kUint8, flat);
  }
  parts_.table_codes = table_codes;
}

void Builder::add_zeros() {
  if (format_.symmetric) return;
  const int bits = format_.stored_bits();
  const DType type = type_;
  if (format_.float_zeros) {
    parts_.zeros = add("_zero_points", type, {rows_, blocks_}, kZeros,
                       [type](const BlockCodes& c) { return to_bytes(type, c.float_zeros); });
    if (format_.block == 0) parts_.zeros = spread(parts_.zeros, operator_blocks());
    return;
  }
  if (standard_) {
    parts_.zeros = add("_zero_points", standard_type(bits, false), by_block(blocks_), kZeros,
                       [bits, inner = inner_](const BlockCodes& c) { return pack_standard_zeros(c, bits, inner); });
    return;
  }
  if (format_.block != 0) {
    parts_.zeros = add("_zero_points", DType::kUint8, {rows_, (blocks_ * bits + 7) / 8}, kZeros,
                       [bits](const BlockCodes& c) { return pack_zero_rows(c, bits); });
    return;
  }
  // The one zero point of a row, repeated through a byte.
  const auto repeat = static_cast<std::uint8_t>(bits == 8 ? 1 : bits == 4 ? 0x11 : 0x55);
  parts_.zeros = add("_zero_points", DType::kUint8, {rows_, 1}, kZeros, [repeat](const BlockCodes& c) {
    Buffer out;
    for (const std::uint8_t zero : c.zeros) out.push_back(static_cast<std::byte>(zero * repeat));
    return out;
  });
  parts_.zeros = spread(parts_.zeros, (operator_blocks() * bits + 7) / 8);
}

Value* Builder::spread(Value* value, std::int64_t count) {
  if (count == 1) return value;
  return insert("Expand", {value, ints("_row_shape", {1, count})}, value->dtype(), {rows_, count});
}

Value* Builder::scales() {
  const DType stored = format_.scales == ScaleForm::kFloat16 ? DType::kFloat16 : type_;
  Value* value = add("_scales", stored, by_block(blocks_), kScales, [stored, inner = inner_](const BlockCodes& c) {
    return to_bytes(stored, arrange(c, c.scales, inner));
  });
  if (stored == type_) return value;
  return insert("Cast", {value}, type_, by_block(blocks_), {{"to", static_cast<std::int64_t>(type_)}});
}

// The number of which the scales of blocks [begin, end) of a row are multiples up to 127.
float unit_of(const float* scales, std::int64_t begin, std::int64_t end) {
  float most = 0;
  for (std::int64_t b = begin; b < end; ++b) most = std::max(most, std::fabs(scales[b]));
  return most / 127;
}

// int8 [rows, groups, group] times float32 [rows, groups, 1], reshaped; in the standard form the same along the axis.
// Groups that do not fill the row are padded and sliced off.
Value* Builder::int8_scales() {
  const std::int64_t group = scale_group(blocks_), groups = (blocks_ + group - 1) / group, padded = groups * group;
  const auto around = [&](std::initializer_list<std::int64_t> middle) {
    Dims dims{rows_ / inner_};
    dims.insert(dims.end(), middle);
    dims.push_back(inner_);
    return dims;
  };
  Value* codes =
      add("_scales_Q8", DType::kInt8, around({groups, group}), kScales, [=, inner = inner_](const BlockCodes& c) {
        BlockCodes wide{c.rows, padded, 1, padded, {}, {}, {}, {}};
        std::vector<float> numbers(static_cast<std::size_t>(c.rows * padded));
        for (std::int64_t row = 0; row < c.rows; ++row) {
          const float* scales = c.scales.data() + row * c.blocks;
          for (std::int64_t b = 0; b < c.blocks; ++b) {
            const float unit = unit_of(scales, b / group * group, std::min(c.blocks, b / group * group + group));
            numbers[static_cast<std::size_t>(row * padded + b)] = unit != 0 ? std::round(scales[b] / unit) : 0.0F;
          }
        }
        return to_bytes(DType::kInt8, arrange(wide, numbers, inner));
      });
  Value* units =
      add("_scale_units", DType::kFloat32, around({groups, 1}), kUnits, [=, inner = inner_](const BlockCodes& c) {
        BlockCodes wide{c.rows, groups, 1, groups, {}, {}, {}, {}};
        std::vector<float> numbers;
        for (std::int64_t row = 0; row < c.rows; ++row) {
          for (std::int64_t b = 0; b < c.blocks; b += group) {
            numbers.push_back(unit_of(c.scales.data() + row * c.blocks, b, std::min(c.blocks, b + group)));
          }
        }
        return to_bytes(DType::kFloat32, arrange(wide, numbers, inner));
      });
  Value* value = insert("Cast", {codes}, DType::kFloat32, around({groups, group}),
                        {{"to", static_cast<std::int64_t>(DType::kFloat32)}});
  value = insert("Mul", {value, units}, DType::kFloat32, around({groups, group}));
  if (padded != blocks_) {
    const Dims flat = around({padded});
    value = insert("Reshape", {value, ints("_padded_shape", flat)}, DType::kFloat32, flat);
    value = insert("Slice", {value, ints("_starts", {0}), ints("_ends", {blocks_}), ints("_axes", {1})},
                   DType::kFloat32, around({blocks_}));
  }
  const Dims dims = by_block(blocks_);
  value = insert("Reshape", {value, ints("_scales_shape", dims)}, DType::kFloat32, dims);
  return type_ == DType::kFloat32 ? value
                                  : insert("Cast", {value}, type_, dims, {{"to", static_cast<std::int64_t>(type_)}});
}

// 2 to the power of int8 exponents. A block of zeros has scale 0 and all codes at the zero point: any power will do.
Value* Builder::powers() {
  const Dims dims = by_block(blocks_);
  Value* exponents = add("_scales_log2", DType::kInt8, dims, kScales, [inner = inner_](const BlockCodes& c) {
    std::vector<float> numbers;
    for (const float scale : c.scales) numbers.push_back(scale > 0 ? static_cast<float>(std::ilogb(scale)) : -126.0F);
    return to_bytes(DType::kInt8, arrange(c, numbers, inner));
  });
  Value* two = add_constant(graph_, Tensor::scalar(2.0F), name_ + prefix() + "_two");
  const auto to = [](DType type) {
    return std::pair<std::string, std::int64_t>{"to", static_cast<std::int64_t>(type)};
  };
  Value* value = insert("Cast", {exponents}, DType::kFloat32, dims, {to(DType::kFloat32)});
  value = insert("Pow", {two, value}, DType::kFloat32, dims);
  return type_ == DType::kFloat32 ? value : insert("Cast", {value}, type_, dims, {to(type_)});
}

WeightParts Builder::run(bool tied) {
  add_codes(tied);
  parts_.scales = format_.scales == ScaleForm::kInt8         ? int8_scales()
                  : format_.scales == ScaleForm::kPowerOfTwo ? powers()
                                                             : scales();
  if (!standard_ && format_.block == 0) parts_.scales = spread(parts_.scales, operator_blocks());
  add_zeros();
  return parts_;
}

}  // namespace

int part_count(const BlockFormat& format) {
  return 2 + (format.symmetric ? 0 : 1) + (format.scales == ScaleForm::kInt8 ? 1 : 0);
}

WeightParts add_weight_parts(const WeightTarget& target, const WeightOptions& options, std::shared_ptr<LazyBlocks> lazy,
                             bool tied) {
  return Builder(target, options, std::move(lazy)).run(tied);
}

}  // namespace onnxfold
