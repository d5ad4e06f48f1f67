// Operators on codes that ONNX Runtime writes; tests/interop/ort_quantized_test.py compares with it.
#include "tests/exec/run_op.h"

namespace onnxfold::quantized_ort_test {
namespace {

using test::array;
using test::attributes;
using test::expect_array;
using test::expect_failure;
using test::integer;
using test::OpOptions;
using test::real;
using test::run_op;

const OpOptions kMicrosoft{.opset = 1, .domain = "com.microsoft"};

Array number(float x) { return array<float>({}, {x}); }
Array zero(std::uint8_t x) { return array<std::uint8_t>({}, {x}); }
Array bytes(Dims dims, const std::vector<std::uint8_t>& x) { return array<std::uint8_t>(std::move(dims), x); }

TEST(QuantizedOfOnnxRuntime, SumsAndProductsOfCodes) {
  // (2, 4) + (-1), in steps of 0.5 from 10 on; * likewise.
  const std::vector<Datum> inputs{bytes({2}, {12, 14}), number(1), zero(10),     bytes({1}, {8}),
                                  number(0.5F),         zero(10),  number(0.5F), zero(10)};
  expect_array<std::uint8_t>(run_op("QLinearAdd", inputs, {}, kMicrosoft), 0, {2}, {12, 16});
  expect_array<std::uint8_t>(run_op("QLinearMul", inputs, {}, kMicrosoft), 0, {2}, {6, 2});
}

TEST(QuantizedOfOnnxRuntime, ActivationsAveragesAndJoins) {
  const Array x = bytes({1, 2, 2, 2}, {0, 2, 4, 6, 10, 10, 10, 20});
  const std::vector<Datum> inputs{x, number(0.5F), zero(4), number(0.25F), zero(8)};
  expect_array<std::uint8_t>(run_op("QLinearLeakyRelu", inputs, attributes(real("alpha", 0.5F)), kMicrosoft), 0,
                             {1, 2, 2, 2}, {4, 6, 8, 12, 20, 20, 20, 40});
  expect_array<std::uint8_t>(run_op("QLinearGlobalAveragePool", inputs, {}, kMicrosoft), 0, {1, 2, 1, 1}, {6, 25});
  expect_array<std::uint8_t>(
      run_op("QLinearAveragePool", inputs, attributes(test::ints("kernel_shape", {1, 2})), kMicrosoft), 0, {1, 2, 2, 1},
      {2, 10, 20, 30});
  expect_array<std::uint8_t>(run_op("QLinearConcat",
                                    {number(1), zero(0), bytes({2, 1}, {1, 2}), number(2), zero(0),
                                     bytes({2, 2}, {3, 4, 5, 6}), number(1), zero(1)},
                                    attributes(integer("axis", -1)), kMicrosoft),
                             0, {2, 3}, {2, 2, 3, 4, 4, 5});
}

TEST(QuantizedOfOnnxRuntime, Products) {
  const Array w = array<std::int8_t>({2, 3}, {1, 2, 3, -1, 0, 4}), scales = array<float>({3}, {1, 0.5F, 2});
  const Array bias = array<float>({3}, {1, 0, 0});
  // The codes of 0 and 2.55 are 0 and 255.
  expect_array<float>(run_op("DynamicQuantizeMatMul", {array<float>({1, 2}, {0, 2.55F}), w, scales}, {}, kMicrosoft), 0,
                      {1, 3}, {-2.55F, 0, 20.4F});
  expect_array<float>(
      run_op("MatMulIntegerToFloat",
             {bytes({1, 2}, {3, 5}), w, number(0.5F), scales, zero(1), array<std::int8_t>({3}, {0, 0, 0}), bias}, {},
             kMicrosoft),
      0, {1, 3}, {0, 1, 22});
  const Array steps = array<std::int32_t>({3}, {2, 0, 0});
  expect_array<float>(
      run_op("QGemm",
             {bytes({1, 2}, {3, 5}), number(0.5F), zero(1), w, scales, array<std::int8_t>({3}, {0, 0, 0}), steps}, {},
             kMicrosoft),
      0, {1, 3}, {0, 1, 22});
  expect_array<std::uint8_t>(run_op("QGemm",
                                    {bytes({1, 2}, {3, 5}), number(0.5F), zero(1), w, scales,
                                     array<std::int8_t>({3}, {0, 0, 0}), steps, number(1), zero(7)},
                                    {}, kMicrosoft),
                             0, {1, 3}, {7, 8, 29});
}

TEST(QuantizedOfOnnxRuntime, NearMisses) {
  expect_failure(run_op("QLinearAdd",
                        {bytes({2}, {1, 2}), array<float>({2}, {1, 1}), zero(0), bytes({2}, {1, 2}), number(1), zero(0),
                         number(1), zero(0)},
                        {}, kMicrosoft),
                 Code::kUnsupported, "scale");
  expect_failure(
      run_op("QLinearMul",
             {bytes({2}, {1, 2}), number(1), zero(0), bytes({3}, {1, 2, 3}), number(1), zero(0), number(1), zero(0)},
             {}, kMicrosoft),
      Code::kInvalidArgument, "broadcast");
  expect_failure(run_op("QLinearConcat",
                        {number(1), zero(0), bytes({2, 1}, {1, 2}), number(2), zero(0), bytes({3, 1}, {3, 4, 5}),
                         number(1), zero(1)},
                        attributes(integer("axis", 1)), kMicrosoft),
                 Code::kInvalidArgument, "fit");
  expect_failure(
      run_op("DynamicQuantizeMatMul", {array<float>({1, 3}, {0, 1, 2}), array<std::int8_t>({2, 1}, {1, 2}), number(1)},
             {}, kMicrosoft),
      Code::kInvalidArgument, "multiply");
}

}  // namespace
}  // namespace onnxfold::quantized_ort_test
