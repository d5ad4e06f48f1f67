#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "exec/integer/fixed_arithmetic.h"
#include "exec/integer/integer_executor.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::integer_test {
namespace {

Array floats(const Dims& dims, const std::vector<float>& values) {
  Array array(DType::kFloat32, dims, Precision::kFloat32);
  std::copy(values.begin(), values.end(), array.mutable_data<float>());
  return array;
}

std::vector<float> values_of(const FixedArray& fixed) {
  const Array array = to_floats(fixed);
  return {array.data<float>(), array.data<float>() + array.size()};
}

// Codes of `bits` bits whose exponents change every `block` numbers of the last axis.
FixedArray random_codes(const Dims& dims, int bits, std::int64_t block, std::mt19937& random) {
  std::uniform_int_distribution<std::int64_t> code(-(1 << (bits - 1)) + 1, (1 << (bits - 1)) - 1);
  std::uniform_int_distribution<std::int32_t> power(-4, 0);
  FixedArray out(dims);
  std::int32_t exponent = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (static_cast<std::int64_t>(i) % dims.back() % block == 0) exponent = power(random);
    out.mantissas[i] = code(random);
    out.exponents[i] = exponent;
  }
  return out;
}

TEST(FixedArray, HoldsEveryFloatExactly) {
  std::mt19937 random(1);
  std::vector<float> values = {0,
                               1,
                               -1,
                               0.1F,
                               std::numeric_limits<float>::max(),
                               std::numeric_limits<float>::denorm_min(),
                               -std::numeric_limits<float>::infinity()};
  while (values.size() < 2000) {
    const float x = __builtin_bit_cast(float, static_cast<std::uint32_t>(random()));
    if (!std::isnan(x)) values.push_back(x);
  }
  const Array array = floats({static_cast<std::int64_t>(values.size())}, values);
  EXPECT_EQ(values_of(*fixed_from(array)), values);
  EXPECT_FALSE(fixed_from(floats({1}, {std::numeric_limits<float>::quiet_NaN()})));
}

TEST(FixedArray, RoundsWideMantissasOnceHalfToEven) {
  FixedArray wide({4});
  wide.mantissas = {(1LL << 24) + 1, (1LL << 24) + 3, -((1LL << 25) + 2), (1LL << 40) + 1};
  EXPECT_EQ(values_of(wide), (std::vector<float>{16777216.0F, 16777220.0F, -33554432.0F, 1099511627776.0F}));
}

TEST(FixedArithmetic, ProductsAreThoseOfFloatsBelowTwoToThe24) {
  std::mt19937 random(2);
  for (const auto& [m, k, n, block] :
       std::vector<std::array<std::int64_t, 4>>{{3, 64, 5, 16}, {1, 33, 7, 8}, {4, 1, 1, 1}, {2, 100, 3, 64}}) {
    const FixedArray a = random_codes({2, m, k}, 7, block, random), b = random_codes({n, k}, 7, block, random);
    Peak peak;
    const auto product = fixed_matmul(a, fixed_transpose(b), peak);
    ASSERT_TRUE(product);
    ASSERT_LT(peak.largest, 1 << 24);
    const auto x = values_of(a), y = values_of(b), z = values_of(*product);
    for (std::int64_t r = 0; r < 2 * m; ++r) {
      for (std::int64_t c = 0; c < n; ++c) {
        float sum = 0;
        for (std::int64_t i = k; i-- > 0;)
          sum += x[static_cast<std::size_t>(r * k + i)] * y[static_cast<std::size_t>(c * k + i)];
        ASSERT_EQ(z[static_cast<std::size_t>(r * n + c)], sum);
      }
    }
  }
}

TEST(FixedArithmetic, RefusesWhatDoesNotFit) {
  FixedArray a({1, 2}), b({2, 1});
  a.mantissas = b.mantissas = {1LL << 30, 1LL << 30};
  Peak peak;
  EXPECT_FALSE(fixed_matmul(a, b, peak));
  a.mantissas = b.mantissas = {1, 1};
  a.exponents = {0, 100};
  EXPECT_FALSE(fixed_matmul(a, b, peak));
  a.exponents = {0, kInfiniteExponent};
  EXPECT_FALSE(fixed_sum(a, 1, peak));
  FixedArray zero({1});
  EXPECT_FALSE(fixed_binary(FixedBinary::kDiv, b, zero, peak));
}

TEST(FixedArithmetic, ElementwiseIsThatOfFloats) {
  std::mt19937 random(3);
  const FixedArray a = random_codes({4, 50}, 8, 8, random), b = random_codes({50}, 8, 50, random);
  const auto x = values_of(a), y = values_of(b);
  Peak peak;
  const auto check = [&](FixedBinary op, float (*of)(float, float)) {
    const auto z = values_of(*fixed_binary(op, a, b, peak));
    for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(z[i], of(x[i], y[i % 50]));
  };
  check(FixedBinary::kAdd, [](float p, float q) { return p + q; });
  check(FixedBinary::kSub, [](float p, float q) { return p - q; });
  check(FixedBinary::kMul, [](float p, float q) { return p * q; });
  check(FixedBinary::kMax, [](float p, float q) { return std::max(p, q); });
  check(FixedBinary::kMin, [](float p, float q) { return std::min(p, q); });
}

TEST(FixedArithmetic, QuotientsAreThoseOfFloats) {
  std::mt19937 random(4);
  std::uniform_int_distribution<std::int64_t> draw(1, (1 << 24) - 1);
  FixedArray a({3000}), b({3000});
  for (std::size_t i = 0; i < 3000; ++i) {
    a.mantissas[i] = i % 7 == 0 ? 0 : draw(random);
    b.mantissas[i] = i % 3 == 0 ? -draw(random) : draw(random);
    b.exponents[i] = static_cast<std::int32_t>(i % 9) - 4;
  }
  const auto x = values_of(a), y = values_of(b);
  Peak peak;
  const auto z = values_of(*fixed_binary(FixedBinary::kDiv, a, b, peak));
  for (std::size_t i = 0; i < 3000; ++i) ASSERT_EQ(z[i], x[i] / y[i]) << x[i] << " / " << y[i];
}

TEST(FixedArithmetic, CodesRoundHalfToEvenAndSaturate) {
  const auto code = [](float x, int exponent) {
    const FixedArray fixed = *fixed_from(floats({1}, {x}));
    return fixed_code(fixed.mantissas[0], fixed.exponents[0], exponent, 0, -128, 127);
  };
  EXPECT_EQ(code(0.5F, 0), 0);
  EXPECT_EQ(code(1.5F, 0), 2);
  EXPECT_EQ(code(2.5F, 0), 2);
  EXPECT_EQ(code(-0.5F, 0), 0);
  EXPECT_EQ(code(-1.5F, 0), -2);
  EXPECT_EQ(code(0.50001F, 0), 1);
  EXPECT_EQ(code(1e30F, 0), 127);
  EXPECT_EQ(code(-std::numeric_limits<float>::infinity(), 0), -128);
  EXPECT_EQ(code(1e-30F, 0), 0);
  EXPECT_EQ(code(3.0F, 2), 1);
  EXPECT_EQ(code(2.0F, 2), 0);
  EXPECT_EQ(code(6.0F, 2), 2);
}

TEST(FixedArithmetic, FarNumbersHideNearOnes) {
  const FixedArray mask = *fixed_from(floats({2}, {-3.4e38F, 0})), x = *fixed_from(floats({2}, {3.25F, 3.25F}));
  Peak peak;
  EXPECT_EQ(values_of(*fixed_binary(FixedBinary::kAdd, mask, x, peak)), (std::vector<float>{-3.4e38F, 3.25F}));
  EXPECT_EQ(values_of(fixed_max(*fixed_binary(FixedBinary::kAdd, mask, x, peak), 0)), (std::vector<float>{3.25F}));
}

TEST(IntegerExecutor, RunsCodesWithIntegersAndTheRestWithFloats) {
  const auto model = test::model_from_text(R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 6] x) => (float[2, 3] y)
<float s = {0.0625}, int8 z = {0}, int8[6, 3] w = {}, float[2, 3] ws = {0.5, 0.25, 1, 2, 0.125, 0.5}>
{
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  v = DequantizeLinear <axis = 0, block_size = 3> (w, ws)
  p = MatMul(d, v)
  y = Tanh(p)
})");
  const Feeds feeds{{"x", Datum(floats({2, 6}, {1, -2, 0.3F, 4, 5.03125F, -6, 0.1F, 0.2F, 0.3F, 0.4F, 9, 0}))}};
  IntegerCounts counts;
  const auto run = (*IntegerExecutor::create(*model, {"p"}))->run(feeds, &counts);
  ASSERT_TRUE(run) << run.error().message;
  ExecutorOptions options;
  options.taps = {"p"};
  const auto wanted = (*Executor::create(*model, options))->run(feeds);
  EXPECT_EQ(*to_doubles(run->taps.at("p").array), *to_doubles(wanted->taps.at("p").array));
  EXPECT_EQ(*to_doubles(run->outputs[0].array), *to_doubles(wanted->outputs[0].array));
  EXPECT_EQ(counts.integer, 3);
  EXPECT_EQ(counts.floats, (std::map<std::string, std::int64_t>{{"Tanh", 1}}));
  EXPECT_EQ(counts.where, model->graph().nodes_of("MatMul")[0]->label());
}

// 1,100 products of 127 * 127 pass 2^24 steps, 1,000 do not.
TEST(IntegerExecutor, SaysWhereSumsPassWhatFloatsHold) {
  for (const int length : {1000, 1100}) {
    const std::string k = std::to_string(length);
    const auto model = test::model_from_text(
        "<ir_version: 10, opset_import: [\"\" : 21]> g (float[1, " + k + "] x, float[" + k +
        ", 1] w) => "
        "(float[1, 1] y) <float s = {0.5}, int8 z = {0}> { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
        "v = QuantizeLinear(w, s, z) e = DequantizeLinear(v, s, z) y = MatMul(d, e) }");
    const std::vector<float> large(static_cast<std::size_t>(length), 63.5F);
    const Feeds feeds{{"x", Datum(floats({1, length}, large))}, {"w", Datum(floats({length, 1}, large))}};
    IntegerCounts counts;
    ASSERT_TRUE((*IntegerExecutor::create(*model))->run(feeds, &counts));
    EXPECT_EQ(counts.beyond.size(), length > 1050 ? 1U : 0U) << counts.largest_sum;
  }
}

TEST(IntegerExecutor, ConvolutionsWithPaddingStridesAndGroups) {
  const auto model = test::model_from_text(R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 4, 7, 6] x) => (float[2, 6, 4, 3] y)
<float s = {0.0625}, int8 z = {0}, int8[6, 2, 3, 2] w = {}, float ws = {0.25}, int32[6] b = {1, -2, 3, 4, -5, 6}, float bs = {0.5}>
{
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  v = DequantizeLinear(w, ws)
  c = DequantizeLinear(b, bs)
  y = Conv <group = 2, pads = [1, 0, 1, 1], strides = [2, 2], dilations = [1, 1]> (d, v, c)
})");
  std::mt19937 random(5);
  std::normal_distribution<float> draw;
  std::vector<float> values(2 * 4 * 7 * 6);
  for (float& value : values) value = draw(random);
  const Feeds feeds{{"x", Datum(floats({2, 4, 7, 6}, values))}};
  IntegerCounts counts;
  const auto run = (*IntegerExecutor::create(*model))->run(feeds, &counts);
  ASSERT_TRUE(run) << run.error().message;
  const auto wanted = (*Executor::create(*model))->run(feeds);
  ASSERT_TRUE(wanted) << wanted.error().message;
  EXPECT_EQ(*to_doubles(run->outputs[0].array), *to_doubles(wanted->outputs[0].array));
  EXPECT_TRUE(counts.floats.empty());
}

TEST(IntegerExecutor, ScalesThatAreNoPowersOfTwoStayFloat) {
  const auto model = test::model_from_text(R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[4] x) => (float[4] y)
<float s = {0.1}, int8 z = {0}>
{
  q = QuantizeLinear(x, s, z)
  y = DequantizeLinear(q, s, z)
})");
  IntegerCounts counts;
  const Feeds feeds{{"x", Datum(floats({4}, {1, 2, 3, 4}))}};
  ASSERT_TRUE((*IntegerExecutor::create(*model))->run(feeds, &counts));
  EXPECT_EQ(counts.integer, 0);
  EXPECT_EQ(counts.floats.size(), 2U);
}

}  // namespace
}  // namespace onnxfold::integer_test
