#include "passes/quantize/bct/shift_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace onnxfold::shift_blocks_test {
namespace {

std::vector<float> heavy_tailed(std::int64_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::student_t_distribution<float> draw(4);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = draw(random);
  return values;
}

ShiftCodes codes_of(const std::vector<float>& values, const ShiftLayout& layout, const ShiftFormat& format) {
  return *quantize_shift_blocks(Tensor::of<float>({static_cast<std::int64_t>(values.size())}, values), layout, format);
}

ShiftLayout run(std::int64_t count, std::int64_t block) { return ShiftLayout::of({count}, 0, false, block); }

double signal_to_noise(const ShiftCodes& codes) { return 10 * std::log10(codes.squares / codes.squared_error); }

TEST(ShiftBlocks, ExponentIsTheLeastThatReachesTheLargest) {
  EXPECT_EQ(shift_exponent(0, 127), 0);
  EXPECT_EQ(shift_exponent(127, 127), 0);
  EXPECT_EQ(shift_exponent(std::nextafter(127.0, 128.0), 127), 1);
  EXPECT_EQ(shift_exponent(63.5, 127), -1);
  EXPECT_EQ(shift_exponent(7, 7), 0);
  EXPECT_EQ(shift_exponent(7.0001, 7), 1);
  EXPECT_EQ(shift_exponent(std::ldexp(1.0, -140), 127), -126);
  for (int power = -60; power <= 60; ++power) {
    for (const int limit : {1, 3, 7, 31, 127, 32767}) {
      const double exact = std::ldexp(static_cast<double>(limit), power);
      EXPECT_EQ(shift_exponent(exact, limit), power);
    }
  }
}

TEST(ShiftBlocks, ErrorIsHalfAStepWithoutRefinement) {
  const auto values = heavy_tailed(1000, 1);
  for (const int bits : {2, 4, 8}) {
    const ShiftLayout layout = run(1000, 64);
    const ShiftCodes codes = codes_of(values, layout, {bits, 64, false});
    const auto decoded = decode_shift_blocks(codes, layout);
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_LE(std::fabs(values[i] - decoded[i]), std::ldexp(0.5F, codes.exponents[i / 64]));
      ASSERT_GE(values[i] * decoded[i], 0);
    }
  }
}

TEST(ShiftBlocks, RefinementNeverAddsError) {
  const auto values = heavy_tailed(4096, 2);
  for (const int bits : {3, 4, 8}) {
    for (const std::int64_t block : {16, 64, 1024}) {
      const ShiftLayout layout = run(4096, block);
      EXPECT_LE(codes_of(values, layout, {bits, block, true}).squared_error,
                codes_of(values, layout, {bits, block, false}).squared_error);
    }
  }
}

TEST(ShiftBlocks, QuantizingTwiceChangesNothing) {
  const ShiftLayout layout = run(500, 32);
  const auto once = decode_shift_blocks(codes_of(heavy_tailed(500, 3), layout, {4, 32, true}), layout);
  EXPECT_EQ(decode_shift_blocks(codes_of(once, layout, {4, 32, true}), layout), once);
}

TEST(ShiftBlocks, PowersOfTwoAndSignsMoveExponentAndSignOnly) {
  const auto values = heavy_tailed(256, 4);
  auto scaled = values, negated = values;
  for (float& value : scaled) value = std::ldexp(value, 5);
  for (float& value : negated) value = -value;
  const ShiftLayout layout = run(256, 32);
  const ShiftCodes codes = codes_of(values, layout, {4, 32, true});
  const ShiftCodes larger = codes_of(scaled, layout, {4, 32, true}), other = codes_of(negated, layout, {4, 32, true});
  EXPECT_EQ(codes.codes, larger.codes);
  for (std::size_t i = 0; i < codes.exponents.size(); ++i) EXPECT_EQ(codes.exponents[i] + 5, larger.exponents[i]);
  EXPECT_EQ(codes.exponents, other.exponents);
  for (std::size_t i = 0; i < codes.codes.size(); ++i) EXPECT_EQ(codes.codes[i], -other.codes[i]);
}

TEST(ShiftBlocks, SmallerBlocksAndMoreBitsHaveLessNoise) {
  const auto values = heavy_tailed(65536, 5);
  const auto noise = [&](int bits, std::int64_t block) {
    return signal_to_noise(codes_of(values, run(65536, block), {bits, block, false}));
  };
  EXPECT_GT(noise(8, 32), noise(8, 256));
  EXPECT_GT(noise(8, 256), noise(8, 4096));
  EXPECT_NEAR(noise(8, 64) - noise(7, 64), 6, 0.5);
  EXPECT_NEAR(noise(8, 32), 39.1, 1);  // what a Python reference measured on the same distribution
}

TEST(ShiftBlocks, BytesAreThoseOfTheFormula) {
  EXPECT_EQ(shift_bytes(run(4096 * 16, 4096), {4, 4096, true}), 4096 * 8 + 16);  // 4 + 8 / 4096 bits a number
  const ShiftLayout ragged = ShiftLayout::of({100, 7}, 0, false, 32);
  EXPECT_EQ(ragged.blocks(), 4 * 7);
  EXPECT_EQ(shift_bytes(ragged, {8, 32, true}), 700 + 28);
  EXPECT_EQ(shift_bytes(ragged, {3, 32, true}), 350 + 28);
}

TEST(ShiftBlocks, BlocksRunAlongTheAxisAndGoOnInTheNextRow) {
  // Columns of very different size: along axis 0 each keeps its own exponent.
  const std::vector<float> values = {1, 100, 2, 200, 3, 300, 4, 400};
  const Tensor matrix = Tensor::of<float>({4, 2}, values);
  const ShiftLayout along = ShiftLayout::of({4, 2}, 0, false, 4);
  ShiftCodes codes = *quantize_shift_blocks(matrix, along, {8, 4, false});
  ASSERT_EQ(codes.exponents.size(), 2U);
  EXPECT_LT(codes.exponents[0], codes.exponents[1]);
  const ShiftLayout flat = ShiftLayout::of({4, 2}, 0, false, 8);
  codes = *quantize_shift_blocks(matrix, flat, {8, 8, false});
  ASSERT_EQ(codes.exponents.size(), 1U);
  EXPECT_EQ(codes.codes, (std::vector<std::int8_t>{0, 0, 1, 1, 25, 50, 75, 100}));
  EXPECT_EQ(decode_shift_blocks(codes, flat), (std::vector<float>{0, 100, 0, 200, 4, 300, 4, 400}));
}

TEST(ShiftBlocks, EmptyZeroAndBrokenConstants) {
  const ShiftCodes zeros = codes_of(std::vector<float>(40, 0.0F), run(40, 32), {4, 32, true});
  EXPECT_EQ(zeros.exponents, (std::vector<std::int8_t>{0, 0}));
  EXPECT_TRUE(codes_of({}, run(0, 32), {4, 32, true}).codes.empty());
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const auto result = quantize_shift_blocks(Tensor::of<float>({2}, {1.0F, bad}), run(2, 32), {4, 32, true});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Code::kInvalidArgument);
  }
}

TEST(ShiftBlocks, TensorsAreTheCodesPacked) {
  const auto values = heavy_tailed(75, 6);
  const ShiftLayout layout = run(75, 32);
  const ShiftCodes codes = codes_of(values, layout, {4, 32, true});
  const ShiftTensors tensors = shift_tensors(Tensor::of<float>({75}, values), layout, {4, 32, true});
  const auto numbers = *to_int64s(tensors.codes), exponents = *to_int64s(tensors.exponents);
  EXPECT_EQ(numbers, std::vector<std::int64_t>(codes.codes.begin(), codes.codes.end()));
  EXPECT_EQ(exponents, std::vector<std::int64_t>(codes.exponents.begin(), codes.exponents.end()));
}

}  // namespace
}  // namespace onnxfold::shift_blocks_test
