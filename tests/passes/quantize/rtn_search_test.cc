// Properties of the searched scales, over all bit widths, block lengths and forms of scales.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "passes/quantize/blockwise.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::rtn_search_test {
namespace {

// Heavy tails, as trained weights have them.
std::vector<float> weights(std::int64_t count) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::student_t_distribution<float> distribution(5);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = 0.05F * distribution(random);
  return values;
}

double squared_error(const std::vector<float>& values, const BlockCodes& codes, const BlockFormat& format) {
  const double middle = 1 << (format.stored_bits() - 1);
  double sum = 0;
  for (std::int64_t i = 0; i < codes.rows * codes.cols; ++i) {
    const std::int64_t row = i / codes.cols, col = i % codes.cols;
    const auto block = static_cast<std::size_t>(row * codes.blocks + col / codes.block);
    const double zero = !codes.zeros.empty()         ? static_cast<double>(codes.zeros[block])
                        : !codes.float_zeros.empty() ? static_cast<double>(codes.float_zeros[block])
                                                     : middle;
    const double code = codes.codes[static_cast<std::size_t>(row * codes.blocks * codes.block + col)];
    const double miss = (code - zero) * static_cast<double>(codes.scales[block]) -
                        static_cast<double>(values[static_cast<std::size_t>(i)]);
    sum += miss * miss;
  }
  return sum;
}

double error_of(const std::vector<float>& values, std::int64_t rows, const BlockFormat& format, BlockRule rule) {
  const auto cols = static_cast<std::int64_t>(values.size()) / rows;
  const auto codes =
      quantize_blocks(Tensor::of<float>({rows, cols}, values), {rows, cols, 1}, format, DType::kFloat32, rule);
  EXPECT_TRUE(codes) << codes.error().message;
  return squared_error(values, *codes, format);
}

TEST(RtnSearch, NeverWorseThanRoundingAndMostlyMuchBetter) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const std::int64_t block : {16, 32, 128, 0}) {
      for (const bool symmetric : {true, false}) {
        const BlockFormat format{bits, block, symmetric};
        const std::vector<float> values = weights(70 * 130);
        const double plain = error_of(values, 70, format, choose_rtn);
        const double searched = error_of(values, 70, format, choose_rtn_search);
        EXPECT_LT(searched, (bits < 8 ? 0.97 : 1.0) * plain) << bits << " bits, blocks of " << block << symmetric;
      }
    }
  }
}

TEST(RtnSearch, OneBlockAtATimeNeverWorse) {
  for (const bool symmetric : {true, false}) {
    for (int seed = 1; seed <= 200; ++seed) {
      const BlockFormat format{4, 32, symmetric};
      const std::vector<float> values = weights(seed % 31 + 2);
      EXPECT_LE(error_of(values, 1, format, choose_rtn_search),
                1.0001 * error_of(values, 1, format, choose_rtn) + 1e-12)
          << seed;
    }
  }
}

// Figures of the Python reference for Gaussian weights, 4 bits, blocks of 32: 8.09 and 7.69 %; rounding alone 8.57.
TEST(RtnSearch, ReachesTheReferenceOnGaussianWeights) {
  std::mt19937 random(1);
  std::normal_distribution<float> distribution;
  std::vector<float> values(131072);
  double energy = 0;
  for (float& value : values) {
    value = distribution(random);
    energy += static_cast<double>(value) * static_cast<double>(value);
  }
  EXPECT_LT(std::sqrt(error_of(values, 512, {4, 32, true}, choose_rtn_search) / energy), 0.0812);
  EXPECT_LT(std::sqrt(error_of(values, 512, {4, 32, false}, choose_rtn_search) / energy), 0.0772);
}

TEST(RtnSearch, ValuesOnAGridAreKept) {
  std::vector<float> values;
  for (int i = 0; i < 64; ++i) values.push_back(0.125F * static_cast<float>(i % 16 - 8));
  for (const bool symmetric : {true, false}) {
    EXPECT_LT(error_of(values, 2, {4, 32, symmetric}, choose_rtn_search), 1e-12);
  }
}

TEST(RtnSearch, ZerosAndConstantsStay) {
  EXPECT_EQ(error_of(std::vector<float>(64, 0.0F), 2, {4, 32, true}, choose_rtn_search), 0);
  EXPECT_EQ(error_of(std::vector<float>(64, 0.0F), 2, {4, 32, false}, choose_rtn_search), 0);
  EXPECT_LT(error_of(std::vector<float>(64, -0.3F), 2, {4, 32, false}, choose_rtn_search), 1e-12);
}

// Scales of a compact form lose little: 8-bit ones under 1 % of the error, float16 nothing to speak of; powers of two
// a lot, and the search gets much of it back.
TEST(RtnSearch, CompactScales) {
  const std::vector<float> values = weights(64 * 512);
  BlockFormat format{4, 16, true};
  const double plain = error_of(values, 64, format, choose_rtn_search);
  format.scales = ScaleForm::kFloat16;
  EXPECT_LT(error_of(values, 64, format, choose_rtn_search), 1.001 * plain);
  format.scales = ScaleForm::kInt8;
  EXPECT_LT(error_of(values, 64, format, choose_rtn_search), 1.02 * plain);
  format.scales = ScaleForm::kPowerOfTwo;
  EXPECT_LT(error_of(values, 64, format, choose_rtn_search), 0.8 * error_of(values, 64, format, choose_rtn));
}

TEST(RtnSearch, ScalesHoldWhatTheirFormCanStore) {
  std::vector<float> scales = {0.5F, -0.013F, 0.0F, 3e-9F, 7.7F, 1e-3F, -2.0F};
  auto powers = scales;
  round_scales(powers.data(), 7, ScaleForm::kPowerOfTwo, DType::kFloat32);
  for (std::size_t i = 0; i < 7; ++i) {
    EXPECT_GE(powers[i], std::abs(scales[i]));
    int exponent = 0;
    EXPECT_TRUE(powers[i] == 0 || std::frexp(powers[i], &exponent) == 0.5F);
  }
  auto eighths = scales;
  round_scales(eighths.data(), 7, ScaleForm::kInt8, DType::kFloat32);
  const float unit = eighths[4] / 127;
  for (std::size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(std::round(eighths[i] / unit) * unit, eighths[i]);
    EXPECT_EQ(eighths[i] == 0, scales[i] == 0);
  }
  std::vector<float> huge = {1e6F};
  round_scales(huge.data(), 1, ScaleForm::kFloat16, DType::kFloat32);
  EXPECT_EQ(huge[0], 65504.0F);
}

TEST(RtnSearch, ScaleGroupsDivideTheRowWhereTheyCan) {
  for (std::int64_t blocks = 1; blocks <= 512; ++blocks) {
    const std::int64_t group = scale_group(blocks);
    EXPECT_GE(group, std::min<std::int64_t>(blocks, 8));
    EXPECT_LE(group, 32);
    EXPECT_TRUE(blocks % group == 0 || group == 16) << blocks;
  }
  EXPECT_EQ(scale_group(24), 12);
  EXPECT_EQ(scale_group(48), 16);
}

TEST(RtnSearch, TheSameBytesAtAnyNumberOfThreads) {
  const std::vector<float> values = weights(300 * 96);
  const Tensor tensor = Tensor::of<float>({96, 300}, values);
  const auto once = quantize_blocks(tensor, {300, 96, 300}, {4, 32, false}, DType::kFloat32, choose_rtn_search);
  const auto again = quantize_blocks(tensor, {300, 96, 300}, {4, 32, false}, DType::kFloat32, choose_rtn_search);
  EXPECT_EQ(once->codes, again->codes);
  EXPECT_EQ(once->scales, again->scales);
}

TEST(RtnSearch, IsAPass) {
  const std::string text =
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[2, 64] x) => (float[2, 8] y) <float[64, 8] w = {}> "
      "{ y = MatMul(x, w) }";
  const auto model = test::model_from_text(text);
  ASSERT_TRUE(*test::run_pass("rtn-search", *model, {{"min-elements", "0"}, {"scales", "float16"}, {"block", "16"}}));
  const auto nodes = model->graph().nodes();
  ASSERT_EQ(nodes.size(), 2U);
  EXPECT_TRUE(nodes[0]->is("Cast"));
  EXPECT_TRUE(nodes[1]->is("MatMulNBits", "com.microsoft"));
}

}  // namespace
}  // namespace onnxfold::rtn_search_test
