#include "passes/quantize/blockwise.h"

#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <set>

#include "exec/parallel.h"
#include "ir/mapped_file.h"
#include "ir/numeric.h"
#include "passes/quantize/block_kernels.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kChunkBytes = 8 << 20;  // of the weight, between two releases of its pages
constexpr float kMostHalf = 65504;

std::int64_t element_bytes(DType dtype) { return bit_width(dtype) / 8; }

float to_float(const std::byte* at, DType dtype) {
  if (dtype == DType::kFloat64) {
    double value = 0;
    std::memcpy(&value, at, 8);
    return static_cast<float>(value);
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, at, 2);
  return dtype == DType::kFloat16 ? half_to_float(bits) : bfloat16_to_float(bits);
}

// `count` elements of a weight as floats, from element `at`.
void read_floats(const std::byte* data, DType dtype, std::int64_t at, std::int64_t count, float* out) {
  const std::int64_t width = element_bytes(dtype);
  if (dtype == DType::kFloat32) {
    std::memcpy(out, data + at * 4, static_cast<std::size_t>(count) * 4);
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) out[i] = to_float(data + (at + i) * width, dtype);
}

float power_at_least(float scale) {
  if (scale == 0) return 0;
  int exponent = 0;
  const float fraction = std::frexp(std::fabs(scale), &exponent);
  return std::ldexp(1.0F, std::clamp(fraction == 0.5F ? exponent - 1 : exponent, -126, 127));
}

// A float with at most 16 significant bits, not smaller than `value` >= 0: its products with int8 are exact.
float round_up_to_16_bits(float value) {
  auto bits = __builtin_bit_cast(std::uint32_t, value);
  bits = (bits + 0xFFU) & ~0xFFU;
  return __builtin_bit_cast(float, bits);
}

// Every scale becomes a multiple, up to 127, of one number; what is not zero stays so.
void round_to_int8(float* scales, std::int64_t count) {
  float most = 0;
  for (std::int64_t i = 0; i < count; ++i) most = std::max(most, std::fabs(scales[i]));
  const float unit = round_up_to_16_bits(most / 127);
  if (!(unit > 0)) {
    std::fill(scales, scales + count, 0.0F);
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    if (scales[i] == 0) continue;
    const float code = std::clamp(std::round(std::fabs(scales[i]) / unit), 1.0F, 127.0F);
    scales[i] = std::copysign(code * unit, scales[i]);
  }
}

// Elements [begin, begin + count) of the weight are not needed any more.
using Done = std::function<void(std::int64_t begin, std::int64_t count)>;

class Engine {
 public:
  Engine(const BlockShape& shape, const BlockFormat& format, DType scale_type, BlockRule rule,
         std::span<const float> importance, BlockCodes& out)
      : shape_(shape),
        format_(format),
        grid_(format),
        scale_type_(scale_type),
        rule_(rule),
        importance_(importance),
        out_(out) {
    group_ = format.scales == ScaleForm::kInt8 ? scale_group(out.blocks) : 1;
  }

  // False when the weight holds something that is not a finite number.
  bool run(const std::byte* data, DType dtype, const Done& done);
  // Were there scales, and did rounding them to their form leave none?
  bool lost_all_scales() const { return some_ && !some_left_; }

 private:
  bool tile(const std::byte* data, DType dtype, std::int64_t row, std::int64_t rows, std::int64_t first,
            std::int64_t last, std::vector<float>& values, std::vector<std::uint8_t>& codes);
  bool slab(const std::byte* data, DType dtype, std::int64_t row, std::int64_t rows, const Done& done);
  void load(const std::byte* data, DType dtype, std::int64_t row, std::int64_t rows, std::int64_t col,
            std::int64_t cols, float* values) const;
  void round_lanes(std::int64_t blocks, std::int64_t rows, float* scales);
  void encode(const float* values, std::int64_t cols, const float* scales, const float* lows, std::int64_t row,
              std::int64_t rows, std::int64_t block, std::uint8_t* codes);
  void pad(std::int64_t row, std::int64_t rows, std::int64_t block, std::int64_t cols);

  const BlockShape& shape_;
  const BlockFormat& format_;
  BlockGrid grid_;
  DType scale_type_;
  BlockRule rule_;
  std::span<const float> importance_;
  BlockCodes& out_;
  std::int64_t group_;
  std::atomic<bool> some_ = false, some_left_ = false;  // scales that are not 0, before and after rounding
};

// Rows [row, row + rows) lie in one slab when rows are spread out.
void Engine::load(const std::byte* data, DType dtype, std::int64_t row, std::int64_t rows, std::int64_t col,
                  std::int64_t cols, float* values) const {
  if (shape_.inner > 1) {
    if (rows < kLanes) std::fill(values, values + cols * kLanes, 0.0F);
    const std::int64_t slab = row / shape_.inner * shape_.cols;
    for (std::int64_t i = 0; i < cols; ++i) {
      read_floats(data, dtype, (slab + col + i) * shape_.inner + row % shape_.inner, rows, values + i * kLanes);
    }
    return;
  }
  if (dtype == DType::kFloat32 && reinterpret_cast<std::uintptr_t>(data) % alignof(float) == 0) {
    rows_to_lanes(reinterpret_cast<const float*>(data) + row * shape_.cols + col, shape_.cols, cols, rows, values);
    return;
  }
  std::vector<float> line(static_cast<std::size_t>(rows * cols));
  for (std::int64_t r = 0; r < rows; ++r) {
    read_floats(data, dtype, (row + r) * shape_.cols + col, cols, line.data() + r * cols);
  }
  rows_to_lanes(line.data(), cols, cols, rows, values);
}

// scales[block * kLanes + lane] of one group of blocks.
void Engine::round_lanes(std::int64_t blocks, std::int64_t rows, float* scales) {
  if (format_.scales == ScaleForm::kFull && scale_type_ == DType::kFloat32) return;
  std::vector<float> row(static_cast<std::size_t>(blocks));
  bool some = false, left = false;
  for (std::int64_t lane = 0; lane < rows; ++lane) {
    for (std::int64_t b = 0; b < blocks; ++b) row[static_cast<std::size_t>(b)] = scales[b * kLanes + lane];
    some = some || std::any_of(row.begin(), row.end(), [](float scale) { return scale != 0; });
    if (format_.scales == ScaleForm::kInt8) {
      round_to_int8(row.data(), blocks);
    } else {
      round_scales(row.data(), blocks, format_.scales, scale_type_);
    }
    left = left || std::any_of(row.begin(), row.end(), [](float scale) { return scale != 0; });
    for (std::int64_t b = 0; b < blocks; ++b) scales[b * kLanes + lane] = row[static_cast<std::size_t>(b)];
  }
  if (some) some_ = true;
  if (left) some_left_ = true;
}

// What ONNX Runtime leaves behind a short block: zeros, but a half-filled byte repeats the code two before it. It
// works on pairs of blocks, so the second of a pair may reach into the first.
void Engine::pad(std::int64_t row, std::int64_t rows, std::int64_t block, std::int64_t cols) {
  for (std::int64_t r = row; r < row + rows; ++r) {
    std::uint8_t* codes = &out_.codes[static_cast<std::size_t>((r * out_.blocks + block) * out_.block)];
    std::fill(codes + cols, codes + out_.block, std::uint8_t{0});
    if (format_.stored_bits() != 4 || cols % 2 == 0) continue;
    codes[cols] = cols > 1 ? codes[cols - 2] : block % 2 == 1 ? codes[-1] : std::uint8_t{0};
  }
}

void Engine::encode(const float* values, std::int64_t cols, const float* scales, const float* lows, std::int64_t row,
                    std::int64_t rows, std::int64_t block, std::uint8_t* codes) {
  std::array<float, kLanes> factors, zeros;
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    const float scale = scales[lane];
    const auto at = static_cast<std::size_t>(lane);
    factors[at] = scale != 0.0F ? 1.0F / scale : 0.0F;
    zeros[at] = grid_.middle;
    if (!grid_.symmetric) {
      const float zero = scale != 0.0F ? -lows[lane] / scale : 0.0F;
      zeros[at] = format_.float_zeros ? static_cast<float>(round_to(scale_type_, static_cast<double>(zero)))
                                      : std::round(std::clamp(zero, 0.0F, grid_.high));
    }
    if (lane >= rows) continue;
    const auto to = static_cast<std::size_t>((row + lane) * out_.blocks + block);
    out_.scales[to] = scale;
    if (!out_.zeros.empty()) out_.zeros[to] = static_cast<std::uint8_t>(zeros[at]);
    if (!out_.float_zeros.empty()) out_.float_zeros[to] = zeros[at];
  }
  encode_lanes(values, cols, factors.data(), zeros.data(), grid_.low, grid_.high, codes);
  const std::int64_t stride = out_.blocks * out_.block;
  lanes_to_rows(codes, cols, rows, &out_.codes[static_cast<std::size_t>(row * stride + block * out_.block)], stride);
  if (cols < out_.block) pad(row, rows, block, cols);
}

// Blocks [first, last) of up to kLanes rows, one group of blocks at a time.
bool Engine::tile(const std::byte* data, DType dtype, std::int64_t row, std::int64_t rows, std::int64_t first,
                  std::int64_t last, std::vector<float>& values, std::vector<std::uint8_t>& codes) {
  values.resize(static_cast<std::size_t>(group_ * out_.block * kLanes));
  codes.resize(static_cast<std::size_t>(out_.block * kLanes));
  std::vector<float> scales(static_cast<std::size_t>(group_ * kLanes)), lows(scales.size());
  for (std::int64_t begin = first; begin < last; begin += group_) {
    const std::int64_t blocks = std::min(group_, last - begin);
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::int64_t col = (begin + b) * out_.block, cols = std::min(out_.block, shape_.cols - col);
      float* block = values.data() + b * out_.block * kLanes;
      load(data, dtype, row, rows, col, cols, block);
      if (!all_finite(block, cols * kLanes)) return false;
      const float* importance = importance_.empty() ? nullptr : &importance_[static_cast<std::size_t>(col)];
      rule_(block, cols, importance, grid_, scales.data() + b * kLanes, lows.data() + b * kLanes);
    }
    round_lanes(blocks, rows, scales.data());
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::int64_t cols = std::min(out_.block, shape_.cols - (begin + b) * out_.block);
      encode(values.data() + b * out_.block * kLanes, cols, scales.data() + b * kLanes, lows.data() + b * kLanes, row,
             rows, begin + b, codes.data());
    }
  }
  return true;
}

// Rows [row, row + rows) in the order in which they lie in the file: block after block where rows are spread out, else
// row after row.
bool Engine::slab(const std::byte* data, DType dtype, std::int64_t row, std::int64_t rows, const Done& done) {
  const bool spread = shape_.inner > 1;
  const std::int64_t tiles = (rows + kLanes - 1) / kLanes;
  const std::int64_t unit = spread ? group_ * out_.block * rows : kLanes * shape_.cols;  // elements
  const std::int64_t units = spread ? (out_.blocks + group_ - 1) / group_ : tiles;
  const std::int64_t bytes = std::max<std::int64_t>(unit * element_bytes(dtype), 1);
  const std::int64_t step = std::clamp<std::int64_t>(kChunkBytes / bytes, 1, units);
  const std::int64_t from = row * shape_.cols, size = rows * shape_.cols;
  std::atomic<bool> finite = true;
  for (std::int64_t begin = 0; begin < units && finite; begin += step) {
    const std::int64_t end = std::min(units, begin + step);
    const std::int64_t first_tile = spread ? 0 : begin, last_tile = spread ? tiles : end;
    const std::int64_t first = spread ? begin * group_ : 0;
    const std::int64_t last = spread ? std::min(out_.blocks, end * group_) : out_.blocks;
    parallel_for(last_tile - first_tile, 1, [&](std::int64_t tile_begin, std::int64_t tile_end) {
      std::vector<float> values;
      std::vector<std::uint8_t> codes;
      for (std::int64_t t = first_tile + tile_begin; t < first_tile + tile_end; ++t) {
        const std::int64_t count = std::min(kLanes, rows - t * kLanes);
        if (!tile(data, dtype, row + t * kLanes, count, first, last, values, codes)) finite = false;
      }
    });
    done(from + begin * unit, std::min(size, end * unit) - begin * unit);
  }
  return finite;
}

bool Engine::run(const std::byte* data, DType dtype, const Done& done) {
  if (shape_.inner <= 1) return slab(data, dtype, 0, shape_.rows, done);
  for (std::int64_t row = 0; row < shape_.rows; row += shape_.inner) {
    if (!slab(data, dtype, row, shape_.inner, done)) return false;
  }
  return true;
}

}  // namespace

BlockGrid::BlockGrid(const BlockFormat& format)
    : symmetric(format.symmetric),
      float_zeros(format.float_zeros),
      powers(format.scales == ScaleForm::kPowerOfTwo),
      bits(format.bits) {
  middle = static_cast<float>(1 << (format.stored_bits() - 1));
  const auto half = static_cast<float>(1 << (format.bits - 1));
  low = symmetric ? middle - half : 0.0F;
  high = symmetric ? middle + half - 1 : static_cast<float>((1 << format.bits) - 1);
}

std::int64_t scale_group(std::int64_t blocks) {
  constexpr std::int64_t kBest = 16;
  if (blocks <= kBest) return std::max<std::int64_t>(blocks, 1);
  std::int64_t best = 0;
  for (std::int64_t d = kBest / 2; d <= 2 * kBest; ++d) {
    if (blocks % d == 0 && (best == 0 || std::abs(d - kBest) <= std::abs(best - kBest))) best = d;
  }
  return best != 0 ? best : kBest;
}

void round_scales(float* scales, std::int64_t blocks, ScaleForm form, DType type) {
  if (form == ScaleForm::kInt8) {
    const std::int64_t group = scale_group(blocks);
    for (std::int64_t b = 0; b < blocks; b += group) round_to_int8(scales + b, std::min(group, blocks - b));
    return;
  }
  for (std::int64_t b = 0; b < blocks; ++b) {
    if (form == ScaleForm::kPowerOfTwo) {
      scales[b] = power_at_least(scales[b]);
      continue;
    }
    const DType stored = form == ScaleForm::kFloat16 ? DType::kFloat16 : type;
    if (stored == DType::kFloat32) continue;
    const float limit = stored == DType::kFloat16 ? kMostHalf : std::fabs(scales[b]);
    const float clamped = std::clamp(scales[b], -limit, limit);
    scales[b] = static_cast<float>(round_to(stored, static_cast<double>(clamped)));
  }
}

Result<BlockCodes> quantize_blocks(const Tensor& weight, const BlockShape& shape, const BlockFormat& format,
                                   DType scale_type, BlockRule rule, std::span<const float> importance) {
  OF_ASSIGN(const Bytes bytes, weight.bytes());
  BlockCodes out;
  if (weight.size() == 0) return fail(Code::kInvalidArgument, "is empty");
  out.rows = shape.rows;
  out.cols = shape.cols;
  out.block = format.length(shape.cols);
  out.blocks = (shape.cols + out.block - 1) / out.block;
  out.codes.resize(static_cast<std::size_t>(shape.rows * out.blocks * out.block));
  out.scales.resize(static_cast<std::size_t>(shape.rows * out.blocks));
  if (!format.symmetric && format.float_zeros) out.float_zeros.resize(out.scales.size());
  if (!format.symmetric && !format.float_zeros) out.zeros.resize(out.scales.size());
  const bool mapped = weight.file() != nullptr;
  const std::int64_t width = element_bytes(weight.dtype());
  const auto done = [&](std::int64_t begin, std::int64_t count) {
    if (!mapped) return;
    release_pages(
        bytes.span().subspan(static_cast<std::size_t>(begin * width), static_cast<std::size_t>(count * width)));
  };
  Engine engine(shape, format, scale_type, rule, importance, out);
  if (!engine.run(bytes.data(), weight.dtype(), done)) {
    return fail(Code::kInvalidArgument, "holds NaN or infinity; exclude it or repair the model");
  }
  if (engine.lost_all_scales()) {
    return fail(Code::kInvalidArgument, "its numbers are too small for scales in 16 bits; take scales=float32");
  }
  return out;
}

struct LazyBlocks::State {
  Maker make;
  std::mutex mutex;
  std::size_t parts = 0;
  std::set<int> taken;
  std::shared_ptr<const BlockCodes> result;
};

LazyBlocks::LazyBlocks(BlockShape shape, BlockFormat format, int parts, Maker make)
    : shape_(shape), format_(format), state_(std::make_shared<State>()) {
  state_->make = std::move(make);
  state_->parts = static_cast<std::size_t>(parts);
}

Result<std::shared_ptr<const BlockCodes>> LazyBlocks::take(int part) {
  const std::lock_guard lock(state_->mutex);
  if (!state_->result) {
    OF_ASSIGN(BlockCodes made, state_->make());
    const bool halves = format_.scales == ScaleForm::kFloat16;
    if (halves && std::any_of(made.scales.begin(), made.scales.end(),
                              [](float scale) { return std::fabs(scale) >= kMostHalf; })) {
      return fail(Code::kInvalidArgument, "its numbers are too large for scales in float16; take scales=float32");
    }
    state_->result = std::make_shared<const BlockCodes>(std::move(made));
    state_->taken.clear();
  }
  auto result = state_->result;
  state_->taken.insert(part);
  if (state_->taken.size() >= state_->parts) state_->result.reset();
  return result;
}

}  // namespace onnxfold
