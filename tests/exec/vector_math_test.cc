#include "exec/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace onnxfold::vector_math_test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> exp_each(std::vector<float> x) {
  exp_floats(x.data(), x.data(), static_cast<std::int64_t>(x.size()));
  return x;
}

TEST(VectorMath, ExpIsThatOfTheLibraryToTwoUnits) {
  std::vector<float> x;
  for (float at = -87.3F; at < 88.7F; at += 0.0137F) x.push_back(at);
  const std::vector<float> y = exp_each(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    ASSERT_NEAR(static_cast<double>(y[i]) / exact, 1, 2.4e-7) << x[i];
  }
}

TEST(VectorMath, ExpOfWhatIsNoOrdinaryNumber) {
  const std::vector<float> y = exp_each({kInfinity, -kInfinity, NAN, 0.0F, 89.0F, 1e30F, -1e30F, 88.7228F});
  EXPECT_EQ(y[0], kInfinity);
  EXPECT_EQ(y[1], 0);
  EXPECT_TRUE(std::isnan(y[2]));
  EXPECT_EQ(y[3], 1);
  EXPECT_EQ(y[4], kInfinity);
  EXPECT_EQ(y[5], kInfinity);
  EXPECT_EQ(y[6], 0);
  EXPECT_TRUE(std::isfinite(y[7]));
}

TEST(VectorMath, AnElementDoesNotDependOnItsPlace) {
  for (std::size_t count = 1; count < 40; ++count) {
    const std::vector<float> y = exp_each(std::vector<float>(count, 1.2345F));
    for (const float each : y) ASSERT_EQ(each, y[0]) << count;
  }
}

TEST(VectorMath, Sigmoid) {
  std::vector<float> x = {0, -kInfinity, kInfinity, NAN, 100, -80};
  for (float at = -40; at < 40; at += 0.0713F) x.push_back(at);
  std::vector<float> y(x.size());
  sigmoid_floats(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
  EXPECT_EQ(y[0], 0.5F);
  EXPECT_EQ(y[1], 0);
  EXPECT_EQ(y[2], 1);
  EXPECT_TRUE(std::isnan(y[3]));
  for (std::size_t i = 4; i < x.size(); ++i) {
    const double exact = 1 / (1 + std::exp(-static_cast<double>(x[i])));
    ASSERT_NEAR(static_cast<double>(y[i]) / exact, 1, 4e-7) << x[i];
  }
}

// Distance in steps between neighbouring floats, from the exact value.
double units(float y, double exact) {
  const auto near = static_cast<float>(exact);
  const double step = static_cast<double>(std::nextafter(std::abs(near), kInfinity) - std::abs(near));
  return std::abs(static_cast<double>(y) - exact) / step;
}

TEST(VectorMath, ErfIsThatOfTheLibraryToTwoUnits) {
  std::vector<float> x = {1e-30F, 1e-6F, 0.921875F, std::nextafter(0.921875F, 0.0F), 4, 3.9F, 100};
  for (float at = 1e-3F; at < 5; at *= 1.0007F) x.push_back(at);
  for (std::size_t i = x.size(); i-- > 0;) x.push_back(-x[i]);
  std::vector<float> y(x.size());
  erf_floats(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_LT(units(y[i], std::erf(static_cast<double>(x[i]))), 2) << x[i];
    ASSERT_EQ(y[i], -y[x.size() - 1 - i]) << x[i];
  }
}

TEST(VectorMath, ErfOfWhatIsNoOrdinaryNumber) {
  std::vector<float> y = {kInfinity, -kInfinity, NAN, 0.0F, -0.0F, 1e30F, 1e-42F};
  erf_floats(y.data(), y.data(), 7);
  EXPECT_EQ(y[0], 1);
  EXPECT_EQ(y[1], -1);
  EXPECT_TRUE(std::isnan(y[2]));
  EXPECT_TRUE(y[3] == 0 && !std::signbit(y[3]) && std::signbit(y[4]));
  EXPECT_EQ(y[5], 1);
  EXPECT_GT(y[6], 0);
}

TEST(VectorMath, GeluIsItsFormula) {
  std::vector<float> x = {0, NAN, 20, -20};
  for (float at = -6; at < 6; at += 0.0137F) x.push_back(at);
  std::vector<float> y(x.size());
  gelu_floats(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
  EXPECT_TRUE(std::isnan(y[1]));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto exact = static_cast<double>(x[i]) / 2 * (1 + std::erf(static_cast<double>(x[i]) / std::sqrt(2.0)));
    if (i == 1) continue;
    ASSERT_NEAR(y[i], exact, 3e-7 * (1 + std::abs(exact))) << x[i];
  }
}

TEST(VectorMath, SoftmaxOfAnyLength) {
  for (std::int64_t count = 1; count < 70; ++count) {
    std::vector<float> x, y(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) x.push_back(std::sin(static_cast<float>(i * 37)) * 9);
    softmax_row(x.data(), y.data(), count);
    double total = 0, top = -100;
    for (const float each : x) top = std::max(top, static_cast<double>(each));
    for (const float each : x) total += std::exp(static_cast<double>(each) - top);
    for (std::size_t i = 0; i < x.size(); ++i)
      ASSERT_NEAR(y[i], std::exp(static_cast<double>(x[i]) - top) / total, 3e-7) << count;
  }
}

TEST(VectorMath, SoftmaxOfMaskedRows) {
  std::vector<float> some = {-kInfinity, 1, -kInfinity, 1}, all(20, -kInfinity), bad(20, 1);
  bad[18] = NAN;
  softmax_row(some.data(), some.data(), 4);
  EXPECT_EQ(some, (std::vector<float>{0, 0.5F, 0, 0.5F}));
  softmax_row(all.data(), all.data(), 20);
  softmax_row(bad.data(), bad.data(), 20);
  for (std::size_t i = 0; i < 20; ++i) EXPECT_TRUE(std::isnan(all[i]) && std::isnan(bad[i])) << i;
}

}  // namespace
}  // namespace onnxfold::vector_math_test
