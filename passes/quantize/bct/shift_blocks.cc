#include "passes/quantize/bct/shift_blocks.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "exec/parallel.h"

namespace onnxfold {
namespace {

constexpr int kLeastExponent = -126, kMostExponent = 127;
constexpr int kFinerTried = 2;  // each step clips twice as hard; a third one never won on trained weights

// What one block becomes at an exponent.
double block_error(const std::vector<double>& values, int exponent, int limit) {
  const double step = std::ldexp(1.0, exponent), inverse = std::ldexp(1.0, -exponent), most = limit;
  double error = 0;
  for (const double value : values) error += shift_error(value, step, inverse, most);
  return error;
}

int block_exponent(const std::vector<double>& values, const ShiftFormat& format) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::fabs(value));
  int best = shift_exponent(largest, format.limit());
  if (!format.refine || largest == 0) return best;
  double least = block_error(values, best, format.limit());
  const int first = best;
  for (int finer = 1; finer <= kFinerTried && first - finer >= kLeastExponent; ++finer) {
    const double error = block_error(values, first - finer, format.limit());
    if (error >= least) continue;
    least = error;
    best = first - finer;
  }
  return best;
}

// Blocks by number: positions in stored order are start, start + step, ...
struct BlockRun {
  std::int64_t start = 0, count = 0, step = 1;
};

BlockRun run_of(const ShiftLayout& layout, std::int64_t block) {
  if (layout.flat()) {
    const std::int64_t start = block * layout.block;
    return {start, std::min(layout.block, layout.count() - start), 1};
  }
  const std::int64_t along = (layout.length + layout.block - 1) / layout.block;
  const std::int64_t i = block % layout.inner, b = block / layout.inner % along, o = block / layout.inner / along;
  const std::int64_t first = b * layout.block;
  return {(o * layout.length + first) * layout.inner + i, std::min(layout.block, layout.length - first), layout.inner};
}

// What both tensors of a constant are made from.
class SharedCodes {
 public:
  SharedCodes(Tensor constant, ShiftLayout layout, ShiftFormat format)
      : constant_(std::move(constant)), layout_(layout), format_(format) {}

  Result<std::shared_ptr<const ShiftCodes>> take(std::size_t part) {
    const std::lock_guard lock(mutex_);
    if (codes_ == nullptr) {
      OF_ASSIGN(ShiftCodes made, quantize_shift_blocks(constant_, layout_, format_));
      codes_ = std::make_shared<const ShiftCodes>(std::move(made));
      taken_ = {false, false};
    }
    std::shared_ptr<const ShiftCodes> result = codes_;
    taken_[part] = true;
    if (taken_[0] && taken_[1]) codes_.reset();
    return result;
  }

 private:
  std::mutex mutex_;
  Tensor constant_;
  ShiftLayout layout_;
  ShiftFormat format_;
  std::shared_ptr<const ShiftCodes> codes_;
  std::array<bool, 2> taken_{};
};

Buffer pack(const std::vector<std::int8_t>& codes, int bits) {
  if (bits == 8) {
    Buffer bytes(codes.size());
    std::transform(codes.begin(), codes.end(), bytes.begin(), [](std::int8_t c) { return static_cast<std::byte>(c); });
    return bytes;
  }
  Buffer bytes((codes.size() + 1) / 2);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const auto nibble = static_cast<unsigned>(codes[i]) & 15U;
    bytes[i / 2] |= static_cast<std::byte>(i % 2 == 0 ? nibble : nibble << 4U);
  }
  return bytes;
}

}  // namespace

int shift_exponent(double largest, int limit) {
  if (largest == 0) return 0;
  int power = 0;
  std::frexp(largest, &power);  // largest < 2^power
  int limit_power = 0;
  std::frexp(static_cast<double>(limit), &limit_power);
  int exponent = power - limit_power;
  if (std::ldexp(static_cast<double>(limit), exponent) < largest) ++exponent;
  return std::clamp(exponent, kLeastExponent, kMostExponent);
}

int shift_code(double value, int exponent, int limit) {
  const double code = std::nearbyint(std::ldexp(value, -exponent));
  return static_cast<int>(std::clamp(code, -static_cast<double>(limit), static_cast<double>(limit)));
}

ShiftLayout ShiftLayout::of(const Dims& dims, std::int64_t axis, bool joined, std::int64_t block) {
  ShiftLayout layout;
  layout.block = block;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    (at < axis ? layout.outer : at == axis || joined ? layout.length : layout.inner) *= dims[i];
  }
  return layout;
}

std::int64_t ShiftLayout::blocks() const {
  if (flat()) return (count() + block - 1) / block;
  return outer * ((length + block - 1) / block) * inner;
}

std::int64_t ShiftLayout::source(std::int64_t i) const {
  if (!flat() || inner == 1) return i;
  const std::int64_t l = i % length, column = i / length % inner, o = i / length / inner;
  return (o * length + l) * inner + column;
}

Result<ShiftCodes> quantize_shift_blocks(const Tensor& constant, const ShiftLayout& layout, const ShiftFormat& format) {
  OF_ASSIGN(const std::vector<float> values, to_floats(constant));
  if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); })) {
    return fail(Code::kInvalidArgument, "holds NaN or infinity");
  }
  ShiftCodes out;
  const std::int64_t blocks = layout.blocks();
  out.codes.resize(values.size());
  out.exponents.resize(static_cast<std::size_t>(blocks));
  std::vector<double> errors(out.exponents.size()), squares(out.exponents.size());
  const std::int64_t grain = std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, layout.block));
  parallel_for(blocks, grain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> block;
    for (std::int64_t b = begin; b < end; ++b) {
      const BlockRun run = run_of(layout, b);
      const auto place = [&](std::int64_t i) { return static_cast<std::size_t>(run.start + i * run.step); };
      block.clear();
      for (std::int64_t i = 0; i < run.count; ++i) {
        const std::int64_t from = layout.source(run.start + i * run.step);
        block.push_back(static_cast<double>(values[static_cast<std::size_t>(from)]));
      }
      const int exponent = block_exponent(block, format);
      const auto at = static_cast<std::size_t>(b);
      out.exponents[at] = static_cast<std::int8_t>(exponent);
      errors[at] = block_error(block, exponent, format.limit());
      for (std::int64_t i = 0; i < run.count; ++i) {
        const double value = block[static_cast<std::size_t>(i)];
        squares[at] += value * value;
        out.codes[place(i)] = static_cast<std::int8_t>(shift_code(value, exponent, format.limit()));
      }
    }
  });
  for (std::size_t b = 0; b < errors.size(); ++b) {
    out.squared_error += errors[b];
    out.squares += squares[b];
  }
  return out;
}

std::vector<float> decode_shift_blocks(const ShiftCodes& codes, const ShiftLayout& layout) {
  std::vector<float> values(codes.codes.size());
  for (std::int64_t b = 0; b < layout.blocks(); ++b) {
    const BlockRun run = run_of(layout, b);
    for (std::int64_t i = 0; i < run.count; ++i) {
      const std::int64_t at = run.start + i * run.step;
      values[static_cast<std::size_t>(layout.source(at))] = std::ldexp(
          static_cast<float>(codes.codes[static_cast<std::size_t>(at)]), codes.exponents[static_cast<std::size_t>(b)]);
    }
  }
  return values;
}

std::int64_t shift_bytes(const ShiftLayout& layout, const ShiftFormat& format) {
  return (layout.count() * format.stored_bits() + 7) / 8 + layout.blocks();
}

ShiftTensors shift_tensors(const Tensor& constant, const ShiftLayout& layout, const ShiftFormat& format) {
  const auto shared = std::make_shared<SharedCodes>(constant, layout, format);
  const int bits = format.stored_bits();
  const bool flat = layout.flat();
  const std::int64_t along = (layout.length + layout.block - 1) / layout.block;
  ShiftTensors tensors;
  tensors.codes = Tensor::deferred(bits == 4 ? DType::kInt4 : DType::kInt8,
                                   flat ? Dims{layout.count()} : Dims{layout.outer, layout.length, layout.inner},
                                   [shared, bits]() -> Result<Buffer> {
                                     OF_ASSIGN(const auto codes, shared->take(0));
                                     return pack(codes->codes, bits);
                                   });
  tensors.exponents =
      Tensor::deferred(DType::kInt8, flat ? Dims{layout.blocks()} : Dims{layout.outer, along, layout.inner},
                       [shared]() -> Result<Buffer> {
                         OF_ASSIGN(const auto codes, shared->take(1));
                         return pack(codes->exponents, 8);
                       });
  return tensors;
}

}  // namespace onnxfold
