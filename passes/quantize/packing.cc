#include "passes/quantize/packing.h"

#include <cstring>

#include "exec/parallel.h"
#include "ir/numeric.h"

namespace onnxfold {
namespace {

// Codes one after the other, low bits first; a fresh byte begins where the writer is told.
class BitWriter {
 public:
  BitWriter(std::size_t bytes, int bits) : data_(bytes), bits_(bits) {}

  void put(std::uint8_t code) {
    data_[bit_ / 8] |= static_cast<std::byte>((code & mask()) << (bit_ % 8));
    bit_ += static_cast<std::size_t>(bits_);
  }
  void align() { bit_ = (bit_ + 7) / 8 * 8; }
  Buffer take() { return std::move(data_); }

 private:
  unsigned mask() const { return (1U << bits_) - 1; }
  Buffer data_;
  int bits_;
  std::size_t bit_ = 0;
};

constexpr std::int64_t kRowGrain = 64;

std::size_t bytes_for(std::int64_t count, int bits) { return static_cast<std::size_t>((count * bits + 7) / 8); }

}  // namespace

Buffer pack_rows(const BlockCodes& codes, int bits, bool pad) {
  const std::int64_t stride = codes.blocks * codes.block;
  const std::int64_t cols = pad ? stride : codes.cols;
  const std::size_t row_bytes = bytes_for(cols, bits);
  Buffer out(static_cast<std::size_t>(codes.rows) * row_bytes);
  parallel_for(codes.rows, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::uint8_t* from = codes.codes.data() + row * stride;
      std::byte* to = out.data() + static_cast<std::size_t>(row) * row_bytes;
      if (bits == 8) {
        std::memcpy(to, from, static_cast<std::size_t>(cols));
      } else if (bits == 4) {
        for (std::int64_t i = 0; i + 1 < cols; i += 2) to[i / 2] = static_cast<std::byte>(from[i] | (from[i + 1] << 4));
        if (cols % 2 != 0) to[cols / 2] = static_cast<std::byte>(from[cols - 1]);
      } else {
        for (std::int64_t i = 0; i < cols; ++i) to[i * bits / 8] |= static_cast<std::byte>(from[i] << (i * bits % 8));
      }
    }
  });
  return out;
}

Buffer pack_zero_rows(const BlockCodes& codes, int bits) {
  BitWriter writer(static_cast<std::size_t>(codes.rows) * bytes_for(codes.blocks, bits), bits);
  for (std::int64_t row = 0; row < codes.rows; ++row) {
    for (std::int64_t b = 0; b < codes.blocks; ++b)
      writer.put(codes.zeros[static_cast<std::size_t>(row * codes.blocks + b)]);
    // An unused half byte holds the middle code, as ONNX Runtime writes it.
    if (codes.blocks * bits % 8 != 0) writer.put(static_cast<std::uint8_t>(1 << (bits - 1)));
    writer.align();
  }
  return writer.take();
}

Buffer pack_standard(const BlockCodes& codes, int bits, bool transposed, bool is_signed) {
  const std::int64_t stride = codes.blocks * codes.block;
  const auto flip =
      static_cast<std::uint8_t>(is_signed ? 1 << (bits - 1) : 0);  // code - 2^(bits-1) in two's complement
  BitWriter writer(bytes_for(codes.rows * codes.cols, bits), bits);
  const std::int64_t outer = transposed ? codes.cols : codes.rows;
  const std::int64_t inner = transposed ? codes.rows : codes.cols;
  for (std::int64_t i = 0; i < outer; ++i) {
    for (std::int64_t j = 0; j < inner; ++j) {
      const std::int64_t at = transposed ? j * stride + i : i * stride + j;
      writer.put(codes.codes[static_cast<std::size_t>(at)] ^ flip);
    }
  }
  return writer.take();
}

Buffer pack_standard_zeros(const BlockCodes& codes, int bits, bool transposed) {
  BitWriter writer(bytes_for(codes.rows * codes.blocks, bits), bits);
  const std::int64_t outer = transposed ? codes.blocks : codes.rows;
  const std::int64_t inner = transposed ? codes.rows : codes.blocks;
  for (std::int64_t i = 0; i < outer; ++i) {
    for (std::int64_t j = 0; j < inner; ++j) {
      const std::int64_t at = transposed ? j * codes.blocks + i : i * codes.blocks + j;
      writer.put(codes.zeros[static_cast<std::size_t>(at)]);
    }
  }
  return writer.take();
}

Result<Buffer> pack_scales(const BlockCodes& codes, DType type, bool transposed) {
  std::vector<double> scales(codes.scales.size());
  for (std::int64_t row = 0; row < codes.rows; ++row) {
    for (std::int64_t b = 0; b < codes.blocks; ++b) {
      const std::int64_t to = transposed ? b * codes.rows + row : row * codes.blocks + b;
      scales[static_cast<std::size_t>(to)] =
          static_cast<double>(codes.scales[static_cast<std::size_t>(row * codes.blocks + b)]);
    }
  }
  OF_ASSIGN(const Tensor tensor, from_doubles(type, {static_cast<std::int64_t>(scales.size())}, scales));
  OF_ASSIGN(const Bytes bytes, tensor.bytes());
  return Buffer(bytes.span().begin(), bytes.span().end());
}

std::vector<std::uint8_t> unpack(std::span<const std::byte> bytes, int bits, std::int64_t count) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(count));
  const unsigned mask = (1U << bits) - 1;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t bit = i * bits;
    const auto byte = std::to_integer<unsigned>(bytes[static_cast<std::size_t>(bit / 8)]);
    codes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>((byte >> (bit % 8)) & mask);
  }
  return codes;
}

}  // namespace onnxfold
