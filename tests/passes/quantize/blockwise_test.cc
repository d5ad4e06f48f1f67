// Properties of the blockwise quantizer, the packings and the conversions between layouts, over ragged shapes.
#include "passes/quantize/blockwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "passes/quantize/block_layout.h"
#include "passes/quantize/packing.h"

namespace onnxfold::blockwise_test {
namespace {

struct Case {
  std::int64_t rows, cols;
  BlockFormat format;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& [rows, cols] : {std::pair{1, 16}, {3, 33}, {7, 70}, {5, 31}, {2, 257}}) {
    for (const int bits : {4, 8}) {
      for (const std::int64_t block : {16, 32, 128}) {
        for (const bool symmetric : {true, false}) all.push_back({rows, cols, {bits, block, symmetric}});
      }
    }
  }
  return all;
}

std::vector<float> normal(std::int64_t count) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::normal_distribution<float> distribution;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = distribution(random);
  return values;
}

BlockCodes quantize(const Case& c, const std::vector<float>& values, bool transposed = false) {
  const Dims dims = transposed ? Dims{c.cols, c.rows} : Dims{c.rows, c.cols};
  auto codes = quantize_blocks(Tensor::of<float>(dims, values), {c.rows, c.cols, transposed ? c.rows : 1}, c.format,
                               DType::kFloat32);
  EXPECT_TRUE(codes) << codes.error().message;
  return std::move(*codes);
}

double value_at(const BlockCodes& codes, const BlockFormat& format, std::int64_t row, std::int64_t col) {
  const auto block = static_cast<std::size_t>(row * codes.blocks + col / codes.block);
  const int zero = codes.zeros.empty() ? 1 << (format.bits - 1) : codes.zeros[block];
  return (codes.codes[static_cast<std::size_t>(row * codes.blocks * codes.block + col)] - zero) *
         static_cast<double>(codes.scales[block]);
}

// Half a step, or a whole one where the signed maximum leaves no code for the other side's largest value, or where the
// zero point was rounded.
TEST(Blockwise, EveryValueIsWithinAStep) {
  for (const Case& c : cases()) {
    const std::vector<float> values = normal(c.rows * c.cols);
    const BlockCodes codes = quantize(c, values);
    for (std::int64_t i = 0; i < c.rows * c.cols; ++i) {
      const double step =
          std::abs(codes.scales[static_cast<std::size_t>(i / c.cols * codes.blocks + i % c.cols / codes.block)]);
      const double error = std::abs(value_at(codes, c.format, i / c.cols, i % c.cols) -
                                    static_cast<double>(values[static_cast<std::size_t>(i)]));
      ASSERT_LE(error, 1.001 * step) << c.cols << " bits " << c.format.bits << " at " << i;
    }
  }
}

TEST(Blockwise, TransposedWeightsGiveTheSameCodes) {
  for (const Case& c : cases()) {
    const std::vector<float> values = normal(c.rows * c.cols);
    std::vector<float> turned(values.size());
    for (std::int64_t i = 0; i < c.rows; ++i) {
      for (std::int64_t j = 0; j < c.cols; ++j) {
        turned[static_cast<std::size_t>(j * c.rows + i)] = values[static_cast<std::size_t>(i * c.cols + j)];
      }
    }
    const BlockCodes a = quantize(c, values), b = quantize(c, turned, true);
    EXPECT_EQ(pack_rows(a, c.format.bits, c.cols), pack_rows(b, c.format.bits, c.cols));
    EXPECT_EQ(a.scales, b.scales);
    EXPECT_EQ(a.zeros, b.zeros);
  }
}

TEST(Blockwise, ZerosStayZero) {
  const Case c{2, 40, {4, 16, true}};
  const BlockCodes codes = quantize(c, std::vector<float>(80, 0.0F));
  for (std::int64_t i = 0; i < 80; ++i) EXPECT_EQ(value_at(codes, c.format, i / 40, i % 40), 0);
}

TEST(Blockwise, HalfScalesAreUsedAsStored) {
  const std::vector<float> values = normal(64);
  const auto codes = quantize_blocks(Tensor::of<float>({1, 64}, values), {1, 64, 1}, {4, 32, true}, DType::kFloat16);
  for (const float scale : codes->scales) {
    EXPECT_EQ(static_cast<double>(scale),
              (*to_doubles(*from_doubles(DType::kFloat16, {1}, std::vector<double>{static_cast<double>(scale)})))[0]);
  }
}

TEST(Blockwise, RefusesNanAndInfinity) {
  for (const float bad : {std::nanf(""), INFINITY}) {
    std::vector<float> values = normal(32);
    values[5] = bad;
    EXPECT_FALSE(quantize_blocks(Tensor::of<float>({1, 32}, values), {1, 32, 1}, {4, 16, true}, DType::kFloat32));
  }
}

TEST(Packing, UnpackGivesTheCodesBack) {
  for (const Case& c : cases()) {
    const BlockCodes codes = quantize(c, normal(c.rows * c.cols));
    const Buffer packed = pack_rows(codes, c.format.bits, codes.blocks * codes.block);
    EXPECT_EQ(unpack(packed, c.format.bits, static_cast<std::int64_t>(codes.codes.size())), codes.codes);
  }
}

// What a stored weight means, read straight from the definition of each layout.
std::vector<double> meaning(const StoredBlocks& s) {
  std::vector<double> values;
  const bool across = s.layout == BlockLayout::kStandardAcross, padded = s.layout == BlockLayout::kPadded;
  const auto codes = unpack(s.codes.bytes()->span(), s.bits, padded ? s.rows * s.blocks() * s.block : s.rows * s.cols);
  const std::vector<double> scales = *to_doubles(s.scales);
  const std::int64_t per_byte = 8 / s.bits,
                     zero_stride = s.standard() ? s.blocks() : (s.blocks() + per_byte - 1) / per_byte * per_byte;
  const auto zeros =
      s.zeros.defined() ? unpack(s.zeros.bytes()->span(), s.bits, s.rows * zero_stride) : std::vector<std::uint8_t>();
  const int flip = s.standard() && is_signed(s.codes.dtype()) ? 1 << (s.bits - 1) : 0;
  for (std::int64_t row = 0; row < s.rows; ++row) {
    for (std::int64_t col = 0; col < s.cols; ++col) {
      const std::int64_t block = col / s.block;
      const std::int64_t at = padded   ? row * s.blocks() * s.block + col
                              : across ? col * s.rows + row
                                       : row * s.cols + col;
      const std::int64_t scale = across ? block * s.rows + row : row * s.blocks() + block;
      const std::int64_t zero_at = across ? scale : row * zero_stride + block;
      const int middle = s.standard() ? 0 : 1 << (s.bits - 1);
      const int raw = codes[static_cast<std::size_t>(at)];
      const int code = flip != 0 ? (raw ^ flip) - flip : raw;
      const int zero = zeros.empty() ? middle
                       : flip != 0   ? (zeros[static_cast<std::size_t>(zero_at)] ^ flip) - flip
                                     : zeros[static_cast<std::size_t>(zero_at)];
      values.push_back((code - zero) * scales[static_cast<std::size_t>(scale)]);
    }
  }
  return values;
}

TEST(BlockLayout, ConversionsKeepTheMeaningAndTheBytes) {
  for (const Case& c : cases()) {
    const BlockCodes codes = quantize(c, normal(c.rows * c.cols));
    StoredBlocks stored;
    stored.bits = c.format.bits, stored.rows = c.rows, stored.cols = c.cols, stored.block = c.format.block;
    const Buffer packed = pack_rows(codes, stored.bits, codes.blocks * codes.block);
    stored.codes = Tensor::owned(DType::kUint8, {c.rows, codes.blocks, c.format.block * stored.bits / 8}, packed);
    stored.scales = Tensor::of<float>({c.rows, codes.blocks}, codes.scales);
    if (!c.format.symmetric) {
      const Buffer zeros = pack_zero_rows(codes, stored.bits);
      stored.zeros = Tensor::owned(DType::kUint8, {c.rows, static_cast<std::int64_t>(zeros.size()) / c.rows}, zeros);
    }
    const std::vector<double> wanted = meaning(stored);
    for (const BlockLayout layout : {BlockLayout::kStandard, BlockLayout::kStandardAcross}) {
      const StoredBlocks other = convert_blocks(stored, layout);
      EXPECT_EQ(meaning(other), wanted) << c.cols;
      const StoredBlocks back = convert_blocks(other, BlockLayout::kPadded);
      EXPECT_EQ(meaning(back), wanted) << c.cols;
      const Bytes bytes = *back.codes.bytes();
      EXPECT_TRUE(std::equal(bytes.span().begin(), bytes.span().end(), packed.begin()))
          << c.cols << " " << c.format.block;
    }
  }
}

}  // namespace
}  // namespace onnxfold::blockwise_test
