#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "exec/executor.h"
#include "exec/integer/integer_executor.h"
#include "ir/verify.h"
#include "tests/support/calibrated_run.h"

namespace onnxfold::test::bct_test {
namespace {

Dataset normal_data(const std::string& input, const Dims& dims, int batches = 2) {
  Dataset data;
  std::mt19937 random(7);
  std::normal_distribution<float> draw;
  for (int b = 0; b < batches; ++b) {
    Array array(DType::kFloat32, dims, Precision::kFloat32);
    for (std::int64_t i = 0; i < array.size(); ++i) array.mutable_data<float>()[i] = draw(random);
    data.batches.push_back({{input, Datum(std::move(array))}});
    data.batch_sizes.push_back(dims[0]);
  }
  return data;
}

std::size_t count(const Model& model, std::string_view op) { return model.graph().nodes_of(op).size(); }

std::string failure(const Model& model, const Dataset& data) {
  const auto executor = Executor::create(model);
  if (!executor) return executor.error().message;
  const auto result = (*executor)->run(data.batches[0]);
  return result ? "" : result.error().message;
}

double damage(const std::string& text, const Dataset& data, const OptionMap& options) {
  const CalibratedRun run = run_calibrated("bct", text, &data, options);
  EXPECT_TRUE(run.did()) << (run.changed ? "" : run.changed.error().message);
  EXPECT_EQ(failure(*run.model, data), "");
  return relative_distance(first_output(*run.model, data), first_output(*model_from_text(text), data));
}

const char* const kPerceptron = R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[4, 6, 64] x) => (float[4, 6, 32] y)
<float[64, 128] w1 = {}, float[128] b1 = {}, float[128, 32] w2 = {}>
{
  p = MatMul(x, w1)
  h = Add(p, b1)
  a = Gelu(h)
  y = MatMul(a, w2)
})";

TEST(Bct, StoresWeightsInBlocksWithoutData) {
  const CalibratedRun run = run_calibrated("bct", kPerceptron, nullptr, {{"weight-bits", "4"}, {"block", "32"}});
  ASSERT_TRUE(run.did());
  EXPECT_TRUE(run.says("need --calibration"));
  EXPECT_EQ(count(*run.model, "DequantizeLinear"), 2U);  // b1 is too small for the nodes that would decode it
  EXPECT_EQ(count(*run.model, "QuantizeLinear"), 0U);
  EXPECT_EQ(count(*run.model, "Gelu"), 1U);
  for (const Node* node : run.model->graph().nodes_of("DequantizeLinear")) {
    EXPECT_EQ(node->input(0)->dtype(), DType::kInt4);
    EXPECT_EQ(node->attr_int("block_size", 0), 32);
    EXPECT_EQ(node->attr_int("axis", 9), 0);
  }
  // 64 * 128 and 128 * 32 numbers of 4 bits, exponents of 8 bits, and 128 of 32.
  EXPECT_TRUE(run.says("12416 constant numbers in 7040 bytes")) << run.remarks.back().reason;
}

TEST(Bct, RoundsEverythingWithData) {
  const Dataset data = normal_data("x", {4, 6, 64});
  const CalibratedRun run = run_calibrated("bct", kPerceptron, &data, {{"block", "32"}, {"activation-block", "32"}});
  ASSERT_TRUE(run.did());
  EXPECT_EQ(count(*run.model, "Gelu"), 0U);
  EXPECT_EQ(count(*run.model, "Gather"), 1U);          // its table
  EXPECT_EQ(count(*run.model, "QuantizeLinear"), 2U);  // x and h; the product before its bias stays an accumulator
  EXPECT_LT(damage(kPerceptron, data, {{"block", "32"}, {"activation-block", "32"}}), 0.03);
}

TEST(Bct, MoreBitsAndSmallerBlocksDamageLess) {
  const Dataset data = normal_data("x", {4, 6, 64});
  const auto at = [&](const std::string& bits, const std::string& block) {
    return damage(kPerceptron, data, {{"weight-bits", bits}, {"block", block}, {"activation-bits", "0"}});
  };
  EXPECT_LT(at("8", "32"), at("6", "32"));
  EXPECT_LT(at("6", "32"), at("4", "32"));
  EXPECT_LT(at("4", "32"), at("4", "4096"));
  EXPECT_LT(at("8", "32"), 0.012);
}

const char* const kBlock = R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 5, 32] x) => (float[2, 5, 32] y)
<float[32] g1 = {}, float[32] c1 = {}, float[32, 32] wq = {}, float[32, 32] wk = {}, float[32, 32] wv = {}, float[32, 32] wo = {}, float scale = {0.0078125}>
{
  n = LayerNormalization <axis = -1, epsilon = 1e-5> (x, g1, c1)
  q = MatMul(n, wq)
  k = MatMul(n, wk)
  v = MatMul(n, wv)
  t = Transpose <perm = [0, 2, 1]> (k)
  s0 = MatMul(q, t)
  s = Mul(s0, scale)
  p = Softmax <axis = -1> (s)
  m = MatMul(p, v)
  o = MatMul(m, wo)
  y = Add(o, x)
})";

TEST(Bct, AttentionAndNormBecomeSumsAndTables) {
  const Dataset data = normal_data("x", {2, 5, 32});
  const CalibratedRun run = run_calibrated("bct", kBlock, &data);
  ASSERT_TRUE(run.did());
  EXPECT_EQ(count(*run.model, "LayerNormalization"), 0U);
  EXPECT_EQ(count(*run.model, "Softmax"), 0U);
  EXPECT_EQ(count(*run.model, "Sqrt"), 0U);
  EXPECT_EQ(count(*run.model, "Exp"), 0U);
  EXPECT_FALSE(run.says("stays in float"));
  EXPECT_TRUE(run.says("warning: slow with ONNX Runtime"));
  EXPECT_LT(damage(kBlock, data, {}), 0.06);
}

TEST(Bct, NormsOfNorms) {
  const char* const text = R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 5, 32] x) => (float[2, 5, 32] y)
<float[32] g1 = {}, float[32] c1 = {}, float[32] g2 = {}, float[32] c2 = {}, float[32, 32] w = {}>
{
  h = MatMul(x, w)
  n = LayerNormalization <axis = -1, epsilon = 1e-5> (h, g1, c1)
  m = LayerNormalization <axis = -1, epsilon = 1e-5> (n, g2, c2)
  y = MatMul(m, w)
})";
  const Dataset data = normal_data("x", {2, 5, 32});
  const CalibratedRun run = run_calibrated("bct", text, &data);
  ASSERT_TRUE(run.did());
  EXPECT_EQ(count(*run.model, "LayerNormalization"), 0U);
  EXPECT_TRUE(verify(*run.model));
  EXPECT_LT(damage(text, data, {}), 0.03);
}

// ONNX Runtime refuses scales by channel around the operators that it makes of these.
TEST(Bct, PoolsHaveOneExponent) {
  const char* const text = R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 8, 6, 6] x) => (float[2, 8, 1, 1] y)
<float[8, 8, 3, 3] w = {}, float[8, 8, 1, 1] v = {}>
{
  h = Conv <pads = [1, 1, 1, 1]> (x, w)
  a = Add(h, x)
  p = GlobalAveragePool(a)
  y = Conv(p, v)
})";
  const Dataset data = normal_data("x", {2, 8, 6, 6});
  const CalibratedRun run = run_calibrated("bct", text, &data);
  ASSERT_TRUE(run.did());
  const Node& pool = *run.model->graph().nodes_of("GlobalAveragePool").at(0);
  EXPECT_EQ(pool.input(0)->producer()->input(1)->static_dims(), Dims{});
  EXPECT_EQ(pool.output()->uses().front().node->input(1)->static_dims(), Dims{});
  std::size_t by_channel = 0;
  for (const Node* node : run.model->graph().nodes_of("QuantizeLinear")) {
    by_channel += node->input(1)->static_dims() == Dims{8} ? 1 : 0;
  }
  EXPECT_GT(by_channel, 0U);
}

TEST(Bct, RightOperandsOfProductsHaveOneExponent) {
  const char* const text = R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 4, 8] x) => (float[2, 4, 8] y) <float[8, 8] w = {}, float s = {0.5}>
{
  h = MatMul(x, w)
  t = Transpose <perm = [0, 2, 1]> (h)
  k = Mul(t, s)
  m = MatMul(h, k)
  y = MatMul(m, h)
})";
  const Dataset data = normal_data("x", {2, 4, 8});
  const CalibratedRun run = run_calibrated("bct", text, &data);
  ASSERT_TRUE(run.did());
  int seen = 0;
  for (const Node* product : run.model->graph().nodes_of("MatMul")) {
    const Node* right = product->input(1)->producer();
    if (right == nullptr || !right->is("DequantizeLinear") || product->input(1)->rank() != 3) continue;
    EXPECT_EQ(right->input(1)->static_dims(), Dims{});
    ++seen;
  }
  EXPECT_GE(seen, 1);
}

TEST(Bct, PartsStayInFloatWhenAsked) {
  const Dataset data = normal_data("x", {2, 5, 32});
  const OptionMap options = {{"norm-bits", "0"}, {"softmax-bits", "0"}, {"function-bits", "0"}};
  const CalibratedRun run = run_calibrated("bct", kBlock, &data, options);
  ASSERT_TRUE(run.did());
  EXPECT_EQ(count(*run.model, "LayerNormalization"), 1U);
  EXPECT_EQ(count(*run.model, "Softmax"), 1U);
  EXPECT_TRUE(run.says("norm-bits=0"));
  EXPECT_TRUE(run.says("softmax-bits=0"));
  const CalibratedRun named = run_calibrated("bct", kBlock, &data, {{"exclude", "w?"}});
  EXPECT_TRUE(named.says("excluded by name"));
}

TEST(Bct, NormOfAConstantRowIsItsBias) {
  const std::string text = R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 32] x) => (float[2, 32] y)
<float[32] gain = {}, float[32] bias = {}>
{
  n = LayerNormalization <axis = -1, epsilon = 1e-5> (x, gain, bias)
  y = Identity(n)
})";
  Dataset data = normal_data("x", {2, 32});
  const CalibratedRun run = run_calibrated("bct", text, &data, {{"activation-block", "32"}});
  ASSERT_TRUE(run.did());
  Array array(DType::kFloat32, {2, 32}, Precision::kFloat32);
  for (std::int64_t i = 0; i < array.size(); ++i) array.mutable_data<float>()[i] = i < 32 ? 0.75F : -1.5F;
  const Dataset constant{{{{"x", Datum(std::move(array))}}}, {}, {2}, ""};
  const auto outputs = first_output(*run.model, constant), wanted = first_output(*model_from_text(text), constant);
  ASSERT_EQ(outputs.size(), 64U);
  for (std::size_t i = 0; i < 64; ++i) EXPECT_NEAR(outputs[i], wanted[i], 0.1);
}

TEST(Bct, SoftmaxRowsSumToOneAndIgnoreAConstant) {
  const std::string text = R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[3, 40] x) => (float[3, 40] y)
{
  p = Softmax <axis = -1> (x)
  z = Neg(p)
  y = Neg(z)
})";
  const Dataset data = normal_data("x", {3, 40});
  const CalibratedRun run = run_calibrated("bct", text, &data, {{"activation-block", "64"}});
  // Nothing is stored in blocks; the softmax is a table all the same.
  ASSERT_TRUE(run.did());
  const auto y = first_output(*run.model, data);
  ASSERT_EQ(y.size(), 120U);
  for (std::size_t row = 0; row < 3; ++row) {
    double sum = 0;
    for (std::size_t i = 0; i < 40; ++i) sum += y[row * 40 + i];
    EXPECT_NEAR(sum, 1, 40 * 0.5 / 32768);
  }
  Array moved(DType::kFloat32, {3, 40}, Precision::kFloat32);
  const Array& x = data.batches[0].at("x").array;
  // Whole steps of the input's grid, so that its rounding moves along.
  for (std::int64_t i = 0; i < 120; ++i)
    moved.mutable_data<float>()[i] = std::ldexp(std::nearbyint(std::ldexp(x.data<float>()[i], 4)), -4);
  Array raised(DType::kFloat32, {3, 40}, Precision::kFloat32);
  for (std::int64_t i = 0; i < 120; ++i) raised.mutable_data<float>()[i] = moved.data<float>()[i] - 0.25F;
  const Dataset first{{{{"x", Datum(std::move(moved))}}}, {}, {3}, ""},
      second{{{{"x", Datum(std::move(raised))}}}, {}, {3}, ""};
  EXPECT_EQ(first_output(*run.model, first), first_output(*run.model, second));
}

TEST(Bct, MasksHideCompletely) {
  const std::string text = R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[1, 4, 32] x) => (float[1, 4, 32] y)
<float[1, 4, 4] mask = {0, -3.4e38, -3.4e38, -3.4e38, 0, 0, -3.4e38, -3.4e38, 0, 0, 0, -3.4e38, 0, 0, 0, 0}>
{
  t = Transpose <perm = [0, 2, 1]> (x)
  s = MatMul(x, t)
  a = Add(s, mask)
  p = Softmax <axis = -1> (a)
  y = MatMul(p, x)
})";
  const Dataset data = normal_data("x", {1, 4, 32});
  const CalibratedRun run = run_calibrated("bct", text, &data);
  ASSERT_TRUE(run.did());
  EXPECT_TRUE(run.says("looks like a mask"));
  // The first position sees only itself.
  const auto y = first_output(*run.model, data), wanted = first_output(*model_from_text(text), data);
  for (std::size_t i = 0; i < 32; ++i) EXPECT_NEAR(y[i], wanted[i], 0.02);
}

TEST(Bct, TiedTablesAreStoredOnce) {
  const std::string text = R"(
<ir_version: 10, opset_import: ["" : 21]>
g (int64[2, 3] i) => (float[2, 3, 50] y)
<float[50, 32] table = {}>
{
  e = Gather(table, i)
  t = Transpose <perm = [1, 0]> (table)
  y = MatMul(e, t)
})";
  const CalibratedRun run = run_calibrated("bct", text, nullptr, {{"weight-bits", "4"}, {"block", "32"}});
  ASSERT_TRUE(run.did());
  ASSERT_EQ(count(*run.model, "DequantizeLinear"), 1U);
  EXPECT_EQ(run.model->graph().nodes_of("DequantizeLinear")[0]->attr_int("axis", 9), 1);
}

TEST(Bct, BlocksLongerThanRowsGoOnInTheNext) {
  const std::string text = R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 48] x) => (float[2, 64] y)
<float[48, 64] w = {}>
{
  y = MatMul(x, w)
})";
  const CalibratedRun run = run_calibrated("bct", text, nullptr, {{"block", "1024"}});
  ASSERT_TRUE(run.did());
  const Node* decode = run.model->graph().nodes_of("DequantizeLinear")[0];
  EXPECT_EQ(decode->input(0)->rank(), 1);
  EXPECT_EQ(decode->attr_int("block_size", 0), 1024);
  const Dataset data = normal_data("x", {2, 48});
  EXPECT_LT(relative_distance(first_output(*run.model, data), first_output(*model_from_text(text), data)), 0.02);
}

TEST(Bct, OldOpsetsAreRaisedWhenThereIsSomethingToDo) {
  const std::string body = R"(
g (float[2, 64] x) => (float[2, 8] y)
<float[64, 8] w = {}>
{
  y = MatMul(x, w)
})";
  const CalibratedRun raised = run_calibrated("bct", "<ir_version: 8, opset_import: [\"\" : 13]>" + body, nullptr);
  ASSERT_TRUE(raised.did());
  EXPECT_EQ(raised.model->opset_imports.at(""), 21);
  const CalibratedRun nothing = run_calibrated("bct", R"(
<ir_version: 8, opset_import: ["" : 13]>
g (int64[2] x) => (int64[2] y)
{
  y = Identity(x)
})",
                                               nullptr);
  EXPECT_FALSE(nothing.did());
  EXPECT_EQ(nothing.model->opset_imports.at(""), 13);
}

TEST(Bct, LeavesWhatItDoesNotKnow) {
  const CalibratedRun half = run_calibrated("bct", R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float16[2, 2] x) => (float16[2, 2] y)
<float16[2, 2] w = {15360, 15361, 15362, 15363}>
{
  y = MatMul(x, w)
})",
                                            nullptr);
  EXPECT_FALSE(half.did());
  EXPECT_TRUE(half.says("need float32"));
  const CalibratedRun unknown = run_calibrated("bct", R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 64] x) => (float[2, 64] y)
<float[64] w = {}>
{
  y = Pow(x, w)
})",
                                               nullptr);
  EXPECT_FALSE(unknown.did());
  EXPECT_TRUE(unknown.says("read by Pow"));
  const CalibratedRun again = run_calibrated("bct", R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 64] x) => (float[2, 8] y)
<int8[64, 8] w = {}, float[2, 8] s = {}>
{
  d = DequantizeLinear <axis = 0, block_size = 32> (w, s)
  y = MatMul(x, d)
})",
                                             nullptr);
  EXPECT_FALSE(again.did());
  EXPECT_TRUE(again.says("quantized already"));
}

TEST(Bct, OutputsKeepTheirNamesAndAccumulators) {
  const Dataset data = normal_data("x", {2, 64});
  const std::string text = R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 64] x) => (float[2, 32] h, float[2, 8] y)
<float[64, 32] w1 = {}, float[32, 8] w2 = {}>
{
  h = MatMul(x, w1)
  y = MatMul(h, w2)
})";
  const CalibratedRun run = run_calibrated("bct", text, &data);
  ASSERT_TRUE(run.did());
  ASSERT_EQ(run.model->graph().outputs().size(), 2U);
  EXPECT_EQ(run.model->graph().outputs()[0]->name(), "h");
  EXPECT_TRUE(run.model->graph().outputs()[0]->producer()->is("MatMul"));  // not rounded for the caller
  EXPECT_TRUE(run.model->graph().outputs()[1]->producer()->input(0)->producer()->is("DequantizeLinear"));
}

TEST(Bct, NarrowActivationsAreClipped) {
  const Dataset data = normal_data("x", {4, 6, 64});
  const CalibratedRun run = run_calibrated("bct", kPerceptron, &data, {{"activation-bits", "5"}});
  ASSERT_TRUE(run.did());
  EXPECT_GE(count(*run.model, "Clip"), 2U);
  EXPECT_LT(damage(kPerceptron, data, {{"activation-bits", "5"}}), 0.2);
}

// Integers alone compute what floats compute, to the bit.
void expect_integers_agree(const std::string& text, const Dataset& data, const OptionMap& options = {}) {
  const CalibratedRun run = run_calibrated("bct", text, &data, options);
  ASSERT_TRUE(run.did());
  IntegerCounts counts;
  const auto executor = IntegerExecutor::create(*run.model);
  ASSERT_TRUE(executor) << executor.error().message;
  const auto result = (*executor)->run(data.batches[0], &counts);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_TRUE(counts.floats.empty()) << counts.floats.begin()->first;
  EXPECT_GT(counts.integer, 5);
  ASSERT_LT(counts.largest_sum, 1 << 24) << counts.where;
  EXPECT_EQ(*to_doubles(result->outputs[0].array), first_output(*run.model, data));
}

TEST(BctIntegers, AgreeOnAPerceptron) {
  const Dataset data = normal_data("x", {4, 6, 64});
  for (const std::string bits : {"4", "8"}) {
    for (const std::string block : {"32", "1024"}) {
      expect_integers_agree(kPerceptron, data, {{"weight-bits", bits}, {"block", block}, {"activation-block", "32"}});
    }
  }
  expect_integers_agree(kPerceptron, data, {{"activation-bits", "5"}, {"function-bits", "4"}});
}

TEST(BctIntegers, AgreeOnAttentionAndNorm) { expect_integers_agree(kBlock, normal_data("x", {2, 5, 32})); }

TEST(Bct, TheResidualStreamAndResultsOfFunctionsHaveMoreBits) {
  const char* const text = R"(
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 5, 32] x) => (float[2, 5, 32] y) <float[32] g1 = {}, float[32] c1 = {}, float[32, 32] u = {}, float[32, 32] w = {}>
{
  h = MatMul(x, u)
  t = Tanh(h)
  o = MatMul(t, w)
  s = Add(o, x)
  n = LayerNormalization <axis = -1, epsilon = 1e-5> (s, g1, c1)
  y = MatMul(n, u)
})";
  const Dataset data = normal_data("x", {2, 5, 32});
  const auto shorts = [&](const OptionMap& options) {
    std::size_t found = 0;
    const CalibratedRun run = run_calibrated("bct", text, &data, options);
    EXPECT_TRUE(run.did());
    for (const Node* node : run.model->graph().nodes_of("DequantizeLinear")) {
      found += node->input(0)->dtype() == DType::kInt16 ? 1 : 0;
    }
    return found;
  };
  // o and s; t and n. x is read by a product too. A norm has int16 of its own.
  const std::size_t own = shorts({{"stream-bits", "8"}, {"result-bits", "8"}});
  EXPECT_EQ(shorts({{"result-bits", "8"}}), own + 2);
  EXPECT_EQ(shorts({{"stream-bits", "8"}}), own + 2);
  EXPECT_EQ(shorts({}), own + 4);
  EXPECT_LT(damage(text, data, {}), damage(text, data, {{"stream-bits", "8"}, {"result-bits", "8"}}));
  expect_integers_agree(text, data, {});
}

}  // namespace
}  // namespace onnxfold::test::bct_test
