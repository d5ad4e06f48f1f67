#include <gtest/gtest.h>

#include <cmath>

#include "ir/verify.h"
#include "tests/support/calibrated_run.h"

namespace onnxfold::dynamic_int8_test {
namespace {

using test::first_output;
using test::relative_distance;

const test::OptionMap kAll = {{"min-elements", "0"}};

Dataset numbers(const Dims& dims) {
  std::vector<double> values(static_cast<std::size_t>(element_count(dims)));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<double>(i) * 0.7) + 0.3;
  Dataset data;
  Feeds feeds;
  feeds["x"] = Datum(*to_array(*from_doubles(DType::kFloat32, dims, values), Precision::kFloat32));
  data.batches.push_back(std::move(feeds));
  data.batch_sizes.push_back(dims[0]);
  return data;
}

constexpr const char* kDynamic = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 16] x) => (float[N, 8] y) <float[16, 8] a = {}, float[8, 8] b = {}, float[8] c = {}> {
  h = MatMul(x, a)
  y = Gemm <transB = 1> (h, b, c)
})";

TEST(DynamicInt8, ProductsOfIntegersWithRangesOfTheRun) {
  const auto model = test::model_from_text(kDynamic);
  const auto changed = test::run_pass("dynamic-int8", *model, kAll);
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(model->graph().nodes_of("DynamicQuantizeLinear").size(), 2U);
  EXPECT_EQ(model->graph().nodes_of("MatMulInteger").size(), 2U);
  EXPECT_EQ(model->graph().outputs()[0]->name(), "y");
  const Dataset data = numbers({6, 16});
  const auto wanted = first_output(*test::model_from_text(kDynamic), data);
  EXPECT_LT(relative_distance(first_output(*model, data), wanted), 0.02);
}

// A tied head reads the table of the embedding through Transpose; weights of another type pass a Cast.
TEST(DynamicInt8, WeightsBehindTransposeCastAndIdentity) {
  for (const char* nodes :
       {"t = Transpose (a) y = MatMul(x, t)", "i = Identity(a) t = Transpose <perm = [1, 0]> (i) y = MatMul(x, t)",
        "c = Cast <to = 1> (h) y = MatMul(x, c)", "t = Transpose (a) y = Gemm(x, t, b)",
        "t = Transpose (k) y = Gemm <transB = 1> (x, t, b)"}) {
    const std::string text =
        std::string(
            "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 16] x) => (float[N, 8] y) <float[8, 16] a = "
            "{}, double[16, 8] h = {}, float[16, 8] k = {}, float[8] b = {}> { ") +
        nodes + " }";
    const auto model = test::model_from_text(text);
    const auto changed = test::run_pass("dynamic-int8", *model, kAll);
    ASSERT_TRUE(changed && *changed) << nodes;
    EXPECT_TRUE(verify(*model));
    EXPECT_TRUE(model->graph().nodes_of("Transpose").empty()) << nodes;
    EXPECT_EQ(model->graph().nodes_of("MatMulInteger").size(), 1U);
    const Dataset data = numbers({6, 16});
    EXPECT_LT(relative_distance(first_output(*model, data), first_output(*test::model_from_text(text), data)), 0.02)
        << nodes;
  }
}

TEST(DynamicInt8, NamesWhatStaysInFloat) {
  const auto run = test::run_calibrated("dynamic-int8", R"(<ir_version: 8, opset_import: ["" : 17]>
g (int64[N] i, float[N, 16] x) => (float[N, 8] y)
<float[32, 16] e = {}, float[4, 16] p = {}, float[8, 16] a = {}, float[1, 16] v = {}> {
  zero = Constant <value_ints = [0]> () one = Constant <value_ints = [1]> ()
  r = Gather(e, i) s = Add(r, x) q = Slice(p, zero, one) u = Add(s, q) z = Mul(u, v) t = Transpose (a) y = MatMul(z, t)
})",
                                        nullptr, {{"min-elements", "0"}, {"tables", "false"}});
  ASSERT_TRUE(run.did());
  EXPECT_TRUE(run.says("this table has no integer form"));
  EXPECT_TRUE(run.says("moves a weight"));
  EXPECT_TRUE(run.says("Mul has no integer form"));
}

TEST(DynamicInt8, BodiesRoundForThemselves) {
  const auto model = test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 16] x, bool c) => (float[N, 8] y) <float[16, 8] w = {}, float[16, 8] v = {}> {
  y = If (c) <then_branch = a () => (float[N, 8] p) { p = MatMul(x, w) },
              else_branch = b () => (float[N, 8] q) { q = MatMul(x, v) }>
})");
  const auto changed = test::run_pass("dynamic-int8", *model, kAll);
  ASSERT_TRUE(changed) << changed.error().message;
  EXPECT_TRUE(verify(*model));
  for (const Graph* body : model->graph().nodes_of("If").at(0)->subgraphs()) {
    EXPECT_EQ(body->nodes_of("DynamicQuantizeLinear").size(), 1U);
    EXPECT_EQ(body->nodes_of("MatMulInteger").size(), 1U);
  }
}

// A weight that several nodes read alike has one copy of its codes; read transposed, it has other scales.
TEST(DynamicInt8, SharedWeightsStayShared) {
  const auto model = test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 4, 6, 8] x) => (float[1, 4, 6, 8] y) <float[4, 4, 1, 1] k = {}, float[8, 8] w = {}> {
  a = Conv (x, k)
  b = Conv (a, k)
  c = MatMul(b, w)
  y = MatMul(c, w)
})");
  const auto changed = test::run_pass("dynamic-int8", *model, kAll);
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(model->graph().initializers().size(), 6U);  // codes, scales and zero points of two weights
  const auto transposed = test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 8] x) => (float[N, 8] y) <float[8, 8] w = {}> {
  a = MatMul(x, w)
  y = Gemm <transB = 1> (a, w)
})");
  ASSERT_TRUE(test::run_pass("dynamic-int8", *transposed, kAll));
  EXPECT_EQ(transposed->graph().initializers().size(), 6U);
}

TEST(DynamicInt8, BodiesShareTheirWeights) {
  const auto model = test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 16] x, bool c) => (float[N, 8] y) <float[16, 8] w = {}> {
  a = MatMul(x, w)
  b = If (c) <then_branch = t () => (float[N, 8] p) { p = MatMul(x, w) }, else_branch = e () => (float[N, 8] q) { q = Neg(a) }>
  y = Add(a, b)
})");
  ASSERT_TRUE(test::run_pass("dynamic-int8", *model, kAll));
  EXPECT_TRUE(verify(*model));
  EXPECT_EQ(model->graph().initializers().size(), 3U);
}

// Convolutions in groups, with bias or not, of one axis and two: codes around 128, since int8 codes are slow there.
TEST(DynamicInt8, ConvolutionsOfIntegers) {
  for (const auto& [text, dims] : std::initializer_list<std::pair<const char*, Dims>>{
           {"(float[2, 3, 8, 8] x) => (float[2, 4, 8, 8] y) <float[4, 3, 3, 3] w = {}, float[4] b = {}> { y = Conv "
            "<kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w, b) }",
            {2, 3, 8, 8}},
           {"(float[2, 6, 9, 9] x) => (float[2, 4, 4, 4] y) <float[4, 3, 3, 3] w = {}> { y = Conv <group = 2, strides "
            "= [2, 2]> (x, w) }",
            {2, 6, 9, 9}},
           {"(float[2, 6, 16] x) => (float[2, 4, 12] y) <float[4, 6, 3] w = {}, float[4] b = {}> { c = Abs(b) y = "
            "Conv <dilations = [2]> (x, w, c) }",
            {2, 6, 16}}}) {
    const std::string whole = std::string("<ir_version: 8, opset_import: [\"\" : 17]> g ") + text;
    const auto model = test::model_from_text(whole);
    const auto changed = test::run_pass("dynamic-int8", *model, kAll);
    ASSERT_TRUE(changed && *changed) << text;
    ASSERT_EQ(model->graph().nodes_of("ConvInteger").size(), 1U);
    EXPECT_EQ(model->graph().nodes_of("ConvInteger")[0]->input(1)->dtype(), DType::kUint8);
    EXPECT_TRUE(model->graph().nodes_of("Conv").empty());
    const Dataset data = numbers(dims);
    EXPECT_LT(relative_distance(first_output(*model, data), first_output(*test::model_from_text(whole), data)), 0.02);
  }
}

TEST(DynamicInt8, LeavesOldOpsetsAloneAndConvolutionsWhenAsked) {
  test::expect_unchanged("dynamic-int8",
                         "<ir_version: 8, opset_import: [\"\" : 17]> g (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) "
                         "<float[4, 3, 3, 3] w = {}> { y = Conv <kernel_shape = [3, 3]> (x, w) }",
                         {{"min-elements", "0"}, {"convolutions", "false"}});
  test::expect_unchanged("dynamic-int8",
                         "<ir_version: 8, opset_import: [\"\" : 10]> g (float[2, 16] x) => (float[2, 4] y) "
                         "<float[16, 4] w = {}> { y = MatMul(x, w) }",
                         kAll);
}

}  // namespace
}  // namespace onnxfold::dynamic_int8_test
