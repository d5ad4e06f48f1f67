#include "ir/numeric.h"

#include <gtest/gtest.h>

#include <cmath>

namespace onnxfold::numeric_test {
namespace {

TEST(Half, EveryCodeSurvivesTheRoundTrip) {
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const float value = half_to_float(static_cast<std::uint16_t>(code));
    if (std::isnan(value)) continue;
    ASSERT_EQ(float_to_half(value), code);
  }
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(float_to_half(1.0F), 0x3C00);
  EXPECT_EQ(double_to_half(1.0 + std::ldexp(1, -11)), 0x3C00);                       // tie: even stays
  EXPECT_EQ(double_to_half(1.0 + 3 * std::ldexp(1, -11)), 0x3C02);                   // tie: odd goes up
  EXPECT_EQ(double_to_half(1.0 + std::ldexp(1, -11) + std::ldexp(1, -40)), 0x3C01);  // would be lost through float
  EXPECT_EQ(float_to_half(65504.0F), 0x7BFF);
  EXPECT_EQ(float_to_half(65520.0F), 0x7C00);
  EXPECT_EQ(float_to_half(5.9604645e-8F), 0x0001);
  EXPECT_EQ(float_to_half(2.9802322e-8F), 0x0000);
  EXPECT_EQ(float_to_half(-0.0F), 0x8000);
  EXPECT_TRUE(std::isnan(half_to_float(float_to_half(NAN))));
}

TEST(Bfloat16, RoundsToNearestEven) {
  EXPECT_EQ(float_to_bfloat16(1.0F), 0x3F80);
  EXPECT_EQ(float_to_bfloat16(1.00390625F), 0x3F80);
  EXPECT_EQ(float_to_bfloat16(1.01171875F), 0x3F82);
  EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(NAN))));
  EXPECT_EQ(float_to_bfloat16(INFINITY), 0x7F80);
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const float value = bfloat16_to_float(static_cast<std::uint16_t>(code));
    if (std::isnan(value)) continue;
    ASSERT_EQ(double_to_bfloat16(static_cast<double>(value)), code);
  }
}

class SmallFloat : public testing::TestWithParam<DType> {};

TEST_P(SmallFloat, EveryCodeSurvivesTheRoundTrip) {
  const std::uint32_t codes = GetParam() == DType::kFloat4E2M1 ? 16 : 256;
  for (std::uint32_t code = 0; code < codes; ++code) {
    const float value = small_float_to_float(GetParam(), static_cast<std::uint8_t>(code));
    if (std::isnan(value)) continue;
    EXPECT_EQ(float_to_small_float(GetParam(), value, false), code) << value;
  }
}

INSTANTIATE_TEST_SUITE_P(All, SmallFloat,
                         testing::Values(DType::kFloat8E4M3FN, DType::kFloat8E4M3FNUZ, DType::kFloat8E5M2,
                                         DType::kFloat8E5M2FNUZ, DType::kFloat4E2M1, DType::kFloat8E8M0));

// Values from the ONNX specification of float8.
TEST(SmallFloat, LimitsOfTheStandard) {
  EXPECT_EQ(small_float_to_float(DType::kFloat8E4M3FN, 0x7E), 448.0F);
  EXPECT_EQ(small_float_to_float(DType::kFloat8E4M3FNUZ, 0x7F), 240.0F);
  EXPECT_EQ(small_float_to_float(DType::kFloat8E5M2, 0x7B), 57344.0F);
  EXPECT_EQ(small_float_to_float(DType::kFloat8E5M2FNUZ, 0x7F), 57344.0F);
  EXPECT_EQ(small_float_to_float(DType::kFloat4E2M1, 0x7), 6.0F);
  EXPECT_TRUE(std::isnan(small_float_to_float(DType::kFloat8E4M3FN, 0x7F)));
  EXPECT_TRUE(std::isnan(small_float_to_float(DType::kFloat8E5M2FNUZ, 0x80)));
}

TEST(SmallFloat, SaturatesOrOverflows) {
  EXPECT_EQ(float_to_small_float(DType::kFloat8E4M3FN, 1e9F, true), 0x7E);
  EXPECT_EQ(float_to_small_float(DType::kFloat8E4M3FN, 1e9F, false), 0x7F);
  EXPECT_EQ(float_to_small_float(DType::kFloat8E5M2, -1e9F, true), 0xFB);
  EXPECT_EQ(float_to_small_float(DType::kFloat8E5M2, -1e9F, false), 0xFC);
  EXPECT_EQ(float_to_small_float(DType::kFloat8E4M3FNUZ, 1e9F, false), 0x80);
  EXPECT_EQ(float_to_small_float(DType::kFloat8E4M3FNUZ, -0.0F, true), 0x00);
}

TEST(RoundTo, IsIdentityForWideTypes) {
  EXPECT_EQ(round_to(DType::kFloat64, 0.1), 0.1);
  EXPECT_EQ(round_to(DType::kFloat32, 0.1), static_cast<double>(0.1F));
  EXPECT_EQ(round_to(DType::kFloat16, 0.1), 0.0999755859375);
}

}  // namespace
}  // namespace onnxfold::numeric_test
