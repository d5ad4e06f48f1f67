#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "passes/quantize/blockwise.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::hqq_test {
namespace {

using test::model_from_text;
using test::run_pass;

constexpr const char* kText =
    "<ir_version: 8, opset_import: [\"\" : 17]> g (float[2, 64] x) => (float[2, 8] y) <float[64, 8] w = {}> "
    "{ y = MatMul(x, w) }";

// Sum of |error|^p over all values, the quantity that HQQ lowers.
double loss(const std::vector<float>& values, const BlockFormat& format, BlockRule rule) {
  const std::int64_t rows = 64, cols = static_cast<std::int64_t>(values.size()) / rows;
  const auto c =
      quantize_blocks(Tensor::of<float>({rows, cols}, values), {rows, cols, 1}, format, DType::kFloat32, rule);
  double sum = 0;
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const auto block = static_cast<std::size_t>(i / cols * c->blocks + i % cols / c->block);
    const double zero = format.float_zeros ? static_cast<double>(c->float_zeros[block]) : c->zeros[block];
    const double code = c->codes[static_cast<std::size_t>(i / cols * c->blocks * c->block + i % cols)];
    const double value = (code - zero) * static_cast<double>(c->scales[block]);
    sum += std::pow(std::abs(value - static_cast<double>(values[static_cast<std::size_t>(i)])), 0.7);
  }
  return sum;
}

std::vector<float> heavy_tailed(std::int64_t count) {
  std::mt19937 random(7);
  std::student_t_distribution<float> distribution(4);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = distribution(random);
  return values;
}

TEST(Hqq, LowersItsLoss) {
  const std::vector<float> values = heavy_tailed(std::int64_t{64} * 256);
  for (const int bits : {2, 3, 4}) {
    const double plain = loss(values, {bits, 64, false}, choose_rtn);
    EXPECT_LT(loss(values, {bits, 64, false}, choose_hqq), plain) << bits;
    BlockFormat free{bits, 64, false};
    free.float_zeros = true;
    EXPECT_LT(loss(values, free, choose_hqq), plain) << bits;
  }
}

TEST(Hqq, ScalingAWeightChangesNoCode) {
  const std::vector<float> values = heavy_tailed(4096);
  std::vector<float> small = values;
  for (float& value : small) value /= 1024;
  const auto a =
      quantize_blocks(Tensor::of<float>({64, 64}, values), {64, 64, 1}, {4, 32, false}, DType::kFloat32, choose_hqq);
  const auto b =
      quantize_blocks(Tensor::of<float>({64, 64}, small), {64, 64, 1}, {4, 32, false}, DType::kFloat32, choose_hqq);
  EXPECT_EQ(a->codes, b->codes);
  EXPECT_EQ(a->zeros, b->zeros);
}

TEST(Hqq, ZerosAndConstants) {
  for (const float value : {0.0F, 0.7F, -0.7F}) {
    for (const bool free : {true, false}) {
      BlockFormat format{4, 16, false};
      format.float_zeros = free;
      EXPECT_LT(loss(std::vector<float>(64 * 16, value), format, choose_hqq), 1e-2)
          << value << free;  // (1e-8)^0.7 a value
    }
  }
}

TEST(Hqq, RoundedZeroPointsAreCodes) {
  const auto model = model_from_text(kText);
  ASSERT_TRUE(*run_pass("hqq", *model, {{"min-elements", "0"}}));
  EXPECT_EQ(model->graph().nodes()[0]->input(3)->dtype(), DType::kUint8);
}

TEST(Hqq, FloatZeroPointsHaveTheTypeOfTheScales) {
  const auto model = model_from_text(kText);
  ASSERT_TRUE(*run_pass("hqq", *model, {{"min-elements", "0"}, {"zero-points", "float"}}));
  const Value* zeros = model->graph().nodes()[0]->input(3);
  EXPECT_EQ(zeros->dtype(), DType::kFloat32);
  EXPECT_EQ(zeros->static_dims(), (Dims{8, 2}));
}

TEST(Hqq, FloatZeroPointsNeedAFormThatHasThem) {
  test::expect_error("hqq", kText, "zero-points=float needs form=matmulnbits",
                     {{"zero-points", "float"}, {"form", "dequantizelinear"}});
  test::expect_error("hqq", kText, "zero-points=float needs 2, 3 or 4 bits", {{"zero-points", "float"}, {"bits", "8"}});
}

}  // namespace
}  // namespace onnxfold::hqq_test
