#include "passes/quantize/blockwise.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>

#include "exec/parallel.h"
#include "ir/numeric.h"

// One loop, compiled for plain x86-64 and for AVX2, chosen when the program starts. No fused multiply-add in either:
// the codes must not depend on the machine.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define ONNXFOLD_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define ONNXFOLD_CLONES
#endif

namespace onnxfold {
namespace {

constexpr std::int64_t kTile = 64;  // rows that one step transposes and quantizes

struct Extremes {
  float low, high;
  bool finite;
};

ONNXFOLD_CLONES Extremes extremes(const float* values, std::int64_t count) {
  float low = values[0];
  float high = values[0];
  float poison = 0;  // becomes NaN with the first NaN or infinity
  for (std::int64_t i = 0; i < count; ++i) {
    low = values[i] < low ? values[i] : low;
    high = values[i] > high ? values[i] : high;
  }
  for (std::int64_t i = 0; i < count; ++i) poison += values[i] * 0.0F;
  return {low, high, poison == 0.0F};
}

// clamp(round_half_away(v * factor + zero), 0, top); after clamping to 0 and more, half away is half up, and truncation
// with an exact fraction decides it without the double rounding of floor(x + 0.5).
ONNXFOLD_CLONES void round_codes(const float* values, std::int64_t count, float factor, float zero, float top,
                                 std::uint8_t* codes) {
  for (std::int64_t i = 0; i < count; ++i) {
    float x = values[i] * factor + zero;
    x = x > 0.0F ? x : 0.0F;
    x = x < top ? x : top;
    const auto whole = static_cast<std::int32_t>(x);
    const float fraction = x - static_cast<float>(whole);
    codes[i] = static_cast<std::uint8_t>(whole + (fraction >= 0.5F ? 1 : 0));
  }
}

float round_scale(float scale, DType type) {
  if (type == DType::kFloat32) return scale;
  return static_cast<float>(round_to(type, static_cast<double>(scale)));
}

struct Quantizer {
  BlockFormat format;
  DType scale_type;
  float top = 15, middle = 8;

  Quantizer(const BlockFormat& given, DType type)
      : format(given),
        scale_type(type),
        top(static_cast<float>((1 << given.bits) - 1)),
        middle(static_cast<float>(1 << (given.bits - 1))) {}

  // What ONNX Runtime leaves behind a short block: zeros, but a half-filled byte repeats the code two before it. It
  // works on pairs of blocks, so the second of a pair may reach into the first (`previous`: its last code, or 0).
  void pad(std::uint8_t* codes, std::int64_t count, std::uint8_t previous) const {
    std::fill(codes + count, codes + format.block, std::uint8_t{0});
    if (format.bits == 4 && count % 2 != 0) codes[count] = count > 1 ? codes[count - 2] : previous;
  }

  // False when the block holds something that is not a finite number.
  bool block(const float* values, std::int64_t count, std::uint8_t* codes, float* scale, std::uint8_t* zero) const {
    const Extremes range = extremes(values, count);
    if (!range.finite) return false;
    float offset = middle;
    if (format.symmetric) {
      const float largest = std::fabs(range.high) > std::fabs(range.low) ? range.high : range.low;
      *scale = round_scale(largest / -middle, scale_type);
    } else {
      const float low = std::min(range.low, 0.0F);
      const float high = std::max(range.high, 0.0F);
      *scale = round_scale((high - low) / top, scale_type);
      offset = *scale != 0.0F ? std::round(std::clamp(-low / *scale, 0.0F, top)) : 0.0F;
      *zero = static_cast<std::uint8_t>(offset);
    }
    const float factor = *scale != 0.0F ? 1.0F / *scale : 0.0F;
    round_codes(values, count, factor, offset, top, codes);
    return true;
  }
};

// `count` elements of a weight as floats, from element `at`.
void read_floats(const std::byte* data, DType dtype, std::int64_t at, std::int64_t count, float* out) {
  if (dtype == DType::kFloat32) {
    std::memcpy(out, data + at * 4, static_cast<std::size_t>(count) * 4);
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, data + (at + i) * 2, 2);
    out[i] = dtype == DType::kFloat16 ? half_to_float(bits) : bfloat16_to_float(bits);
  }
}

// One tile of rows, one block of columns: values as [rows][block].
void read_tile(const std::byte* data, DType dtype, const BlockShape& shape, std::int64_t row, std::int64_t rows,
               std::int64_t col, std::int64_t cols, std::int64_t stride, float* tile) {
  if (!shape.transposed) {
    for (std::int64_t r = 0; r < rows; ++r)
      read_floats(data, dtype, (row + r) * shape.cols + col, cols, tile + r * stride);
    return;
  }
  std::array<float, kTile> line;
  for (std::int64_t c = 0; c < cols; ++c) {
    read_floats(data, dtype, (col + c) * shape.rows + row, rows, line.data());
    for (std::int64_t r = 0; r < rows; ++r) tile[r * stride + c] = line[static_cast<std::size_t>(r)];
  }
}

bool quantize_tile(const std::byte* data, DType dtype, const BlockShape& shape, const Quantizer& quantizer,
                   std::int64_t row, BlockCodes& out) {
  const std::int64_t block = out.block;
  const std::int64_t rows = std::min(kTile, shape.rows - row);
  std::vector<float> tile(static_cast<std::size_t>(kTile * block));
  for (std::int64_t b = 0; b < out.blocks; ++b) {
    const std::int64_t cols = std::min(block, shape.cols - b * block);
    read_tile(data, dtype, shape, row, rows, b * block, cols, block, tile.data());
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t at = (row + r) * out.blocks + b;
      std::uint8_t* zero = out.zeros.empty() ? nullptr : &out.zeros[static_cast<std::size_t>(at)];
      if (!quantizer.block(tile.data() + r * block, cols, &out.codes[static_cast<std::size_t>(at * block)],
                           &out.scales[static_cast<std::size_t>(at)], zero)) {
        return false;
      }
      if (cols < block) {
        std::uint8_t* codes = &out.codes[static_cast<std::size_t>(at * block)];
        quantizer.pad(codes, cols, b % 2 == 1 ? codes[-1] : std::uint8_t{0});
      }
    }
  }
  return true;
}

}  // namespace

Result<BlockCodes> quantize_blocks(const Tensor& weight, const BlockShape& shape, const BlockFormat& format,
                                   DType scale_type) {
  OF_ASSIGN(const Bytes bytes, weight.bytes());
  BlockCodes out;
  out.rows = shape.rows;
  out.cols = shape.cols;
  out.block = format.block;
  out.blocks = (shape.cols + format.block - 1) / format.block;
  out.codes.resize(static_cast<std::size_t>(shape.rows * out.blocks * format.block));
  out.scales.resize(static_cast<std::size_t>(shape.rows * out.blocks));
  if (!format.symmetric) out.zeros.resize(out.scales.size());
  const Quantizer quantizer(format, scale_type);
  std::atomic<bool> finite = true;
  parallel_for((shape.rows + kTile - 1) / kTile, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t tile = begin; tile < end; ++tile) {
      if (!quantize_tile(bytes.data(), weight.dtype(), shape, quantizer, tile * kTile, out)) finite = false;
    }
  });
  if (!finite) return fail(Code::kInvalidArgument, "holds NaN or infinity; exclude it or repair the model");
  return out;
}

struct LazyBlocks::State {
  std::mutex mutex;
  int parts = 0;
  std::vector<bool> taken;
  std::shared_ptr<const BlockCodes> result;
};

LazyBlocks::LazyBlocks(Tensor weight, BlockShape shape, BlockFormat format, DType scale_type, int parts)
    : weight_(std::move(weight)),
      shape_(shape),
      format_(format),
      scale_type_(scale_type),
      state_(std::make_shared<State>()) {
  state_->parts = parts;
}

Result<std::shared_ptr<const BlockCodes>> LazyBlocks::take(int part) {
  const std::lock_guard lock(state_->mutex);
  if (!state_->result) {
    OF_ASSIGN(BlockCodes made, quantize_blocks(weight_, shape_, format_, scale_type_));
    state_->result = std::make_shared<const BlockCodes>(std::move(made));
    state_->taken.assign(static_cast<std::size_t>(state_->parts), false);
  }
  auto result = state_->result;
  state_->taken[static_cast<std::size_t>(part)] = true;
  if (std::all_of(state_->taken.begin(), state_->taken.end(), [](bool taken) { return taken; })) state_->result.reset();
  return result;
}

}  // namespace onnxfold
