// Matrix products, convolution, pooling, normalization, recurrence, attention, resizing: branches that the ONNX node
// tests do not reach, the com.microsoft operators on hand-computed numbers, and errors.
#include <cmath>

#include "tests/exec/run_op.h"

namespace onnxfold::neural_test {
namespace {

using test::array;
using test::attributes;
using test::expect_array;
using test::expect_failure;
using test::integer;
using test::ints;
using test::OpOptions;
using test::real;
using test::run_op;
using test::text;

const OpOptions kMicrosoft{.opset = 1, .domain = "com.microsoft"};

Array floats(Dims dims, const std::vector<float>& values) { return array<float>(std::move(dims), values); }

Array ramp(Dims dims, float step = 1) {
  Array made(DType::kFloat32, std::move(dims), Precision::kFloat32);
  for (std::int64_t i = 0; i < made.size(); ++i) made.mutable_data<float>()[i] = step * static_cast<float>(i % 17 - 8);
  return made;
}

std::vector<float> values_of(const Result<std::vector<Datum>>& outputs, std::size_t i = 0) {
  EXPECT_TRUE(outputs.has_value());
  if (!outputs) return {};
  const Array& out = (*outputs)[i].array;
  return {out.data<float>(), out.data<float>() + out.size()};
}

TEST(MatMul, VectorsAndBroadcastBatches) {
  expect_array<float>(run_op("MatMul", {floats({2}, {1, 2}), floats({2}, {3, 4})}), 0, {}, {11});
  expect_array<float>(run_op("MatMul", {floats({2, 1, 2}, {1, 2, 3, 4}), floats({2}, {1, 10})}), 0, {2, 1}, {21, 43});
  expect_array<float>(run_op("MatMul", {floats({2, 1, 1}, {2, 3}), floats({1, 2, 1, 1}, {5, 7})}), 0, {1, 2, 1, 1},
                      {10, 21});
}

TEST(MatMul, IntegersWrap) {
  expect_array<std::int32_t>(
      run_op("MatMul", {array<std::int32_t>({1, 2}, {1 << 30, 1}), array<std::int32_t>({2, 1}, {4, -7})}), 0, {1, 1},
      {-7});
}

TEST(MatMul, WrongShapesNameTheNode) {
  expect_failure(run_op("MatMul", {ramp({2, 3}), ramp({2, 3})}), Code::kInvalidArgument,
                 "[2,3] and [2,3] do not multiply");
}

TEST(Gemm, TransposedWithScaledColumnBias) {
  expect_array<float>(
      run_op("Gemm", {floats({2, 1}, {1, 2}), floats({2, 2}, {1, 2, 3, 4}), floats({1}, {10})},
             attributes(integer("transA", 1), integer("transB", 1), real("alpha", 2), real("beta", 0.5F))),
      0, {1, 2}, {15, 27});
  expect_failure(run_op("Gemm", {ramp({2, 2}), ramp({2, 2}), ramp({3})}), Code::kInvalidArgument, "does not broadcast");
}

TEST(FusedMatMul, ScalesAndTransposes) {
  expect_array<float>(run_op("FusedMatMul", {floats({1, 2}, {1, 2}), floats({1, 2}, {3, 4})},
                             attributes(integer("transB", 1), real("alpha", 0.5F)), kMicrosoft),
                      0, {1, 1}, {5.5F});
  expect_failure(run_op("FusedMatMul", {ramp({1, 2}), ramp({2, 1})}, attributes(integer("transBatchA", 1)), kMicrosoft),
                 Code::kUnsupported, "transBatchA");
}

TEST(Einsum, DiagonalTraceAndOuter) {
  const Array square = floats({2, 2}, {1, 2, 3, 4});
  expect_array<float>(run_op("Einsum", {square}, attributes(text("equation", "ii"))), 0, {}, {5});
  expect_array<float>(run_op("Einsum", {square}, attributes(text("equation", "ii->i"))), 0, {2}, {1, 4});
  expect_array<float>(
      run_op("Einsum", {floats({2}, {1, 2}), floats({2}, {3, 4})}, attributes(text("equation", "i , j -> ji"))), 0,
      {2, 2}, {3, 6, 4, 8});
  expect_array<float>(run_op("Einsum", {square, square, square}, attributes(text("equation", "ab,bc,cd->ad"))), 0,
                      {2, 2}, {37, 54, 81, 118});
  expect_failure(run_op("Einsum", {square}, attributes(text("equation", "ijk->i"))), Code::kInvalidArgument, "rank 2");
}

// Every path of convolution against the definition in double.
void check_conv(const Dims& x_dims, const Dims& w_dims, std::int64_t groups, std::int64_t stride, std::int64_t dilation,
                std::int64_t pad) {
  const Array x = ramp(x_dims, 0.25F), w = ramp(w_dims, 0.5F);
  const auto out = run_op("Conv", {x, w},
                          attributes(integer("group", groups), ints("strides", {stride, stride}),
                                     ints("dilations", {dilation, dilation}), ints("pads", {pad, pad, pad, pad})));
  const std::vector<float> actual = values_of(out);
  const Dims& y = (*out)[0].array.dims();
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(actual.size()); ++i) {
    const std::int64_t ow = i % y[3], oh = i / y[3] % y[2], m = i / (y[3] * y[2]) % y[1], n = i / (y[3] * y[2] * y[1]);
    double sum = 0;
    for (std::int64_t c = 0; c < w_dims[1]; ++c) {
      for (std::int64_t k = 0; k < w_dims[2] * w_dims[3]; ++k) {
        const std::int64_t ih = oh * stride - pad + k / w_dims[3] * dilation,
                           iw = ow * stride - pad + k % w_dims[3] * dilation;
        if (ih < 0 || iw < 0 || ih >= x_dims[2] || iw >= x_dims[3]) continue;
        const std::int64_t channel = m / (w_dims[0] / groups) * w_dims[1] + c;
        sum += static_cast<double>(x.data<float>()[((n * x_dims[1] + channel) * x_dims[2] + ih) * x_dims[3] + iw]) *
               static_cast<double>(w.data<float>()[(m * w_dims[1] + c) * w_dims[2] * w_dims[3] + k]);
      }
    }
    ASSERT_NEAR(actual[static_cast<std::size_t>(i)], sum, 1e-3) << "element " << i;
  }
}

TEST(Conv, AgreesWithItsDefinition) {
  check_conv({2, 3, 9, 7}, {4, 3, 3, 3}, 1, 1, 1, 1);
  check_conv({1, 4, 9, 7}, {6, 2, 3, 2}, 2, 2, 2, 2);
  check_conv({2, 4, 6, 5}, {8, 1, 3, 3}, 4, 2, 1, 1);
  check_conv({2, 4, 6, 5}, {4, 1, 3, 3}, 4, 1, 2, 2);
  check_conv({2, 4, 6, 5}, {3, 4, 1, 1}, 1, 1, 1, 0);
  check_conv({1, 2, 80, 70}, {3, 2, 3, 3}, 1, 1, 1, 1);
}

TEST(Conv, ErrorsNameShapesAndAttributes) {
  expect_failure(run_op("Conv", {ramp({1, 3, 4, 4}), ramp({2, 2, 3, 3})}), Code::kInvalidArgument, "group 1");
  expect_failure(run_op("Conv", {ramp({1, 3, 2, 2}), ramp({2, 3, 3, 3})}), Code::kInvalidArgument, "does not fit");
  expect_failure(run_op("Conv", {ramp({1, 3, 4, 4}), ramp({2, 3, 3, 3})}, attributes(ints("strides", {0, 1}))),
                 Code::kInvalidArgument, "strides");
}

TEST(FusedConv, AddsThenActivates) {
  expect_array<float>(
      run_op("FusedConv",
             {floats({1, 1, 2}, {1, -5}), floats({1, 1, 1}, {2}), floats({1}, {1}), floats({1, 1, 2}, {1, 2})},
             attributes(text("activation", "Relu")), kMicrosoft),
      0, {1, 1, 2}, {4, 0});
}

TEST(MaxPool, ColumnMajorIndicesAndPartialWindows) {
  const auto out = run_op("MaxPool", {floats({1, 1, 2, 3}, {1, 5, 2, 4, 3, 6})},
                          attributes(ints("kernel_shape", {2, 2}), ints("strides", {2, 2}), integer("ceil_mode", 1),
                                     integer("storage_order", 1)),
                          OpOptions{.outputs = 2});
  expect_array<float>(out, 0, {1, 1, 1, 2}, {5, 6});
  expect_array<std::int64_t>(out, 1, {1, 1, 1, 2}, {2, 5});
}

TEST(AveragePool, CeilModeDoesNotCountCellsPastThePadding) {
  expect_array<float>(run_op("AveragePool", {floats({1, 1, 3}, {2, 4, 6})},
                             attributes(ints("kernel_shape", {2}), ints("strides", {2}), integer("ceil_mode", 1),
                                        integer("count_include_pad", 1))),
                      0, {1, 1, 2}, {3, 6});
}

TEST(BatchNormalization, TrainingUpdatesStatistics) {
  const auto out = run_op(
      "BatchNormalization",
      {floats({2, 1}, {1, 3}), floats({1}, {1}), floats({1}, {5}), floats({1}, {0}), floats({1}, {0})},
      attributes(integer("training_mode", 1), real("momentum", 0.5F), real("epsilon", 0)), OpOptions{.outputs = 3});
  expect_array<float>(out, 0, {2, 1}, {4, 6});
  expect_array<float>(out, 1, {1}, {1});
  expect_array<float>(out, 2, {1}, {0.5F});
}

TEST(SkipLayerNormalization, AddsThenNormalizes) {
  const auto out =
      run_op("SkipLayerNormalization",
             {floats({1, 1, 2}, {1, 2}), floats({1, 1, 2}, {0, 1}), floats({2}, {1, 2}), floats({2}, {0, 1}),
              floats({2}, {1, 1})},
             attributes(real("epsilon", 0)), OpOptions{.opset = 1, .outputs = 4, .domain = "com.microsoft"});
  expect_array<float>(out, 0, {1, 1, 2}, {-1, 3});
  expect_array<float>(out, 3, {1, 1, 2}, {2, 4});
}

TEST(SkipSimplifiedLayerNormalization, DividesByTheRootMeanSquare) {
  expect_array<float>(run_op("SkipSimplifiedLayerNormalization",
                             {floats({1, 1, 2}, {1, 3}), floats({1, 1, 2}, {0, 4}), floats({2}, {5, 10})},
                             attributes(real("epsilon", 0)), kMicrosoft),
                      0, {1, 1, 2}, {1, 14});
}

TEST(EmbedLayerNormalization, RefusesForeignIds) {
  const std::vector<Datum> inputs{
      array<std::int32_t>({1, 1}, {7}), Datum(), ramp({3, 2}), ramp({2, 2}), Datum(), ramp({2}), ramp({2})};
  expect_failure(run_op("EmbedLayerNormalization", inputs, {}, kMicrosoft), Code::kInvalidArgument, "id 7");
}

TEST(Lstm, ZeroLengthSequencesKeepTheirState) {
  const std::vector<Datum> inputs{
      ramp({2, 1, 1}),          ramp({1, 4, 1}), ramp({1, 4, 1}), Datum(), array<std::int32_t>({1}, {0}),
      floats({1, 1, 1}, {0.5F})};
  const auto out = run_op("LSTM", inputs, attributes(integer("hidden_size", 1)), OpOptions{.outputs = 2});
  expect_array<float>(out, 0, {2, 1, 1, 1}, {0, 0});
  expect_array<float>(out, 1, {1, 1, 1}, {0.5F});
}

TEST(Gru, WrongWeightsNameTheInput) {
  expect_failure(run_op("GRU", {ramp({2, 1, 1}), ramp({1, 4, 1}), ramp({1, 3, 1})}), Code::kInvalidArgument, "input 1");
}

// Two identical keys share the weight; a masked one gets none.
TEST(Attention, MasksAndPast) {
  const std::vector<Datum> inputs{floats({1, 1, 1, 1}, {1}),    floats({1, 1, 1, 1}, {2}),
                                  floats({1, 1, 1, 1}, {8}),    Datum(),
                                  floats({1, 1, 2, 1}, {2, 2}), floats({1, 1, 2, 1}, {1, 3})};
  expect_array<float>(run_op("Attention", inputs, {}, OpOptions{.outputs = 3}), 0, {1, 1, 1, 1}, {4});
  std::vector<Datum> masked = inputs;
  masked[3] = array<bool>({1, 3}, {false, true, false});
  expect_array<float>(run_op("Attention", masked, {}, OpOptions{.outputs = 3}), 0, {1, 1, 1, 1}, {3});
}

TEST(GroupQueryAttention, AppendsToPastAndLooksBackThroughAWindow) {
  const std::vector<Datum> inputs{floats({1, 1, 2}, {1, 1}),    floats({1, 1, 1}, {2}),
                                  floats({1, 1, 1}, {8}),       floats({1, 1, 2, 1}, {2, 2}),
                                  floats({1, 1, 2, 1}, {1, 4}), array<std::int32_t>({1}, {2}),
                                  array<std::int32_t>({1}, {3})};
  const OpOptions options{.opset = 1, .outputs = 3, .domain = "com.microsoft"};
  const auto out =
      run_op("GroupQueryAttention", inputs,
             attributes(integer("num_heads", 2), integer("kv_num_heads", 1), integer("local_window_size", 2)), options);
  expect_array<float>(out, 0, {1, 1, 2}, {6, 6});
  expect_array<float>(out, 2, {1, 1, 3, 1}, {1, 4, 8});
  expect_failure(
      run_op("GroupQueryAttention", inputs,
             attributes(integer("num_heads", 2), integer("kv_num_heads", 1), integer("smooth_softmax", 1)), options),
      Code::kUnsupported, "smooth_softmax");
}

TEST(MultiHeadAttention, PaddingMaskHidesKeys) {
  const std::vector<Datum> inputs{floats({1, 1, 1}, {1}), floats({1, 2, 1}, {1, 1}), floats({1, 2, 1}, {3, 9}), Datum(),
                                  array<std::int32_t>({1, 2}, {1, 0})};
  expect_array<float>(run_op("MultiHeadAttention", inputs, attributes(integer("num_heads", 1)), kMicrosoft), 0,
                      {1, 1, 1}, {3});
}

// One head of width 1: query and key are zero, so every open key weighs the same; the value is x + 1.
TEST(PackedAttention, AveragesTheOpenKeys) {
  const auto run = [](Datum mask, std::int64_t unidirectional) {
    return run_op("Attention",
                  {floats({1, 3, 1}, {1, 3, 8}), floats({1, 3}, {0, 0, 1}), floats({3}, {0, 0, 1}), std::move(mask)},
                  attributes(integer("num_heads", 1), integer("unidirectional", unidirectional)), kMicrosoft);
  };
  expect_array<float>(run(Datum(), 0), 0, {1, 3, 1}, {5, 5, 5});
  expect_array<float>(run(array<std::int32_t>({1, 3}, {1, 1, 0}), 0), 0, {1, 3, 1}, {3, 3, 3});
  expect_array<float>(run(array<std::int32_t>({1}, {2}), 0), 0, {1, 3, 1}, {3, 3, 3});
  expect_array<float>(run(array<std::int32_t>({2}, {3, 1}), 0), 0, {1, 3, 1}, {6.5F, 6.5F, 6.5F});
  expect_array<float>(run(Datum(), 1), 0, {1, 3, 1}, {2, 3, 5});
  expect_failure(run(array<std::int32_t>({1, 1, 3, 3}, std::vector<std::int32_t>(9, 1)), 0), Code::kUnsupported,
                 "mask_index");
}

TEST(PackedAttention, WidthsMustFit) {
  expect_failure(run_op("Attention", {ramp({1, 3, 2}), ramp({3, 6})}, attributes(integer("num_heads", 1)), kMicrosoft),
                 Code::kInvalidArgument, "do not fit");
  expect_failure(run_op("Attention", {ramp({1, 3, 2}), ramp({2, 6})}, attributes(integer("num_heads", 4)), kMicrosoft),
                 Code::kInvalidArgument, "does not split");
}

TEST(RotaryEmbedding, QuarterTurn) {
  expect_array<float>(
      run_op("RotaryEmbedding",
             {floats({1, 1, 2}, {1, 2}), array<std::int64_t>({1}, {0}), floats({1, 1}, {0}), floats({1, 1}, {1})},
             attributes(integer("num_heads", 1)), kMicrosoft),
      0, {1, 1, 2}, {-2, 1});
}

TEST(Resize, HostileScalesAreRefused) {
  expect_failure(run_op("Resize", {ramp({1, 1, 2, 2}), Datum(), floats({4}, {1, 1, -1, 1})}), Code::kInvalidArgument,
                 "scale -1");
  expect_failure(run_op("Resize", {ramp({1, 1, 2, 2}), Datum(), floats({4}, {1, 1, 3e9F, 1})}), Code::kInvalidArgument,
                 "out of range");
}

// A length that is not a power of two, against the definition.
TEST(Dft, OddLengths) {
  const Array x = ramp({1, 7, 1});
  const std::vector<float> actual = values_of(run_op("DFT", {x, Datum(), array<std::int64_t>({}, {1})}));
  ASSERT_EQ(actual.size(), 14U);
  for (int k = 0; k < 7; ++k) {
    double real_part = 0;
    for (int j = 0; j < 7; ++j) real_part += static_cast<double>(x.data<float>()[j]) * std::cos(2 * M_PI * j * k / 7);
    EXPECT_NEAR(actual[static_cast<std::size_t>(2 * k)], real_part, 1e-5);
  }
}

TEST(NonMaxSuppression, EmptyResult) {
  expect_array<std::int64_t>(run_op("NonMaxSuppression", {floats({1, 1, 4}, {0, 0, 1, 1}), floats({1, 1, 1}, {0.5F})}),
                             0, {0, 3}, {});
}

void expect_near(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-6) << i;
}

TEST(Gelu, FusionsOfOnnxRuntime) {
  const Array x = floats({2, 2}, {-1, 0.5F, 2, -3}), bias = floats({2}, {1, -0.5F});
  const Array moved = floats({2, 2}, {-2, 1, 1, -2.5F});  // plus the bias this is x
  const std::vector<float> gelu = {-0.15865525F, 0.34573123F, 1.9544997F, -0.00404969F};
  const std::vector<float> tanh_gelu = {-0.15880801F, 0.345714F, 1.9545977F, -0.00363739F};
  const std::vector<float> quick_gelu = {-0.15420423F, 0.35038844F, 1.9356586F, -0.01807131F};
  expect_near(values_of(run_op("Gelu", {x}, {}, kMicrosoft)), gelu);
  expect_near(values_of(run_op("FastGelu", {x}, {}, kMicrosoft)), tanh_gelu);
  expect_near(values_of(run_op("QuickGelu", {x}, {}, kMicrosoft)), quick_gelu);
  expect_near(values_of(run_op("BiasGelu", {moved, bias}, {}, kMicrosoft)), gelu);
  expect_near(values_of(run_op("FastGelu", {moved, bias}, {}, kMicrosoft)), tanh_gelu);
  expect_failure(run_op("BiasGelu", {moved, floats({3}, {1, 2, 3})}, {}, kMicrosoft), Code::kInvalidArgument,
                 "bias of shape");
}

}  // namespace
}  // namespace onnxfold::neural_test
