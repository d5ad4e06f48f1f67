// com.microsoft activations against the formulas of their definitions.
#include <cmath>

#include "tests/exec/run_op.h"

namespace onnxfold::gelu_ort_test {
namespace {

using test::array;
using test::attributes;
using test::expect_failure;
using test::OpOptions;
using test::real;
using test::run_op;

const OpOptions kMicrosoft{.opset = 1, .domain = "com.microsoft"};
const std::vector<float> kX = {-3, -0.5F, 0, 0.25F, 1, 4};
const std::vector<float> kBias = {0.5F, -1, 2};

double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

template <typename Formula>
void expect_activation(const Result<std::vector<Datum>>& outputs, bool biased, Formula formula) {
  ASSERT_TRUE(outputs) << outputs.error().message;
  const Array& y = outputs->front().array;
  ASSERT_EQ(y.dims(), (Dims{2, 3}));
  for (std::size_t i = 0; i < kX.size(); ++i) {
    const double x = static_cast<double>(kX[i]) + (biased ? static_cast<double>(kBias[i % 3]) : 0);
    EXPECT_NEAR(y.data<float>()[i], formula(x), 1e-6) << i;
  }
}

TEST(GeluOfOnnxRuntime, WithAndWithoutABias) {
  const Array x = array<float>({2, 3}, kX), bias = array<float>({3}, kBias);
  expect_activation(run_op("Gelu", {x}, {}, kMicrosoft), false, gelu);
  expect_activation(run_op("BiasGelu", {x, bias}, {}, kMicrosoft), true, gelu);
  expect_activation(run_op("FastGelu", {x}, {}, kMicrosoft), false, gelu_tanh);
  expect_activation(run_op("FastGelu", {x, bias}, {}, kMicrosoft), true, gelu_tanh);
  expect_activation(run_op("QuickGelu", {x}, attributes(real("alpha", 1)), kMicrosoft), false,
                    [](double v) { return v / (1 + std::exp(-v)); });
  expect_activation(run_op("QuickGelu", {x}, {}, kMicrosoft), false,
                    [](double v) { return v / (1 + std::exp(-1.702 * v)); });
}

TEST(GeluOfOnnxRuntime, ABiasThatDoesNotFit) {
  const Array x = array<float>({2, 3}, kX);
  expect_failure(run_op("BiasGelu", {x, array<float>({2}, {1, 2})}, {}, kMicrosoft), Code::kInvalidArgument, "bias");
}

}  // namespace
}  // namespace onnxfold::gelu_ort_test
