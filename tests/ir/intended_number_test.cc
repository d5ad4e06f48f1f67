#include "ir/intended_number.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>

namespace onnxfold::intended_number_test {
namespace {

TEST(IntendedNumber, NumbersOfFormulas) {
  EXPECT_EQ(intended_number(1.41421356F), std::sqrt(2.0));
  EXPECT_EQ(intended_number(0.707106781F), 1 / std::sqrt(2.0));
  EXPECT_EQ(intended_number(-5.65685425F), -std::sqrt(32.0));
  EXPECT_EQ(intended_number(0.176776695F), 1 / std::sqrt(32.0));
  EXPECT_EQ(intended_number(0.797884561F), std::sqrt(2 / M_PI));
  EXPECT_EQ(intended_number(0.044715F), 0.044715);
  EXPECT_EQ(intended_number(0.166666667F), 1.0 / 6);
  EXPECT_EQ(intended_number(static_cast<float>(std::pow(80.0, -0.25))), 1 / std::sqrt(std::sqrt(80.0)));
}
TEST(IntendedNumber, OtherNumbersStay) {
  for (const float number : {0.0F, 1.0F, -1.0F, 8.0F, 0.125F, 1e-5F, 1.702F, 1.4142F, 3e38F, INFINITY, -INFINITY}) {
    EXPECT_EQ(intended_number(number), static_cast<double>(number));
  }
  EXPECT_TRUE(std::isnan(intended_number(NAN)));
}
TEST(IntendedNumber, HalvesStandForTheSameNumbers) {
  EXPECT_EQ(intended_number(1.4140625F, DType::kFloat16), std::sqrt(2.0));
  EXPECT_EQ(intended_number(0.70703125F, DType::kFloat16), 1 / std::sqrt(2.0));
  EXPECT_EQ(intended_number(1.4140625F), 1.4140625);
  for (const float number : {0.0F, 0.5F, 1.0F, -2.0F, 65504.0F, INFINITY}) {
    EXPECT_EQ(intended_number(number, DType::kFloat16), static_cast<double>(number));
  }
}

TEST(IntendedNumber, RoundsToWhatWasGiven) {
  std::mt19937 random(1);
  for (int i = 0; i < 10000; ++i) {
    const float number = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::isnan(number)) continue;
    EXPECT_EQ(static_cast<float>(intended_number(number)), number);
  }
  for (int n = 1; n <= 4096; ++n) {
    for (const double root : {std::sqrt(n), 1 / std::sqrt(n)}) {
      EXPECT_EQ(intended_number(static_cast<float>(root)), root) << n;
    }
  }
}

}  // namespace
}  // namespace onnxfold::intended_number_test
